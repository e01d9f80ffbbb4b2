"""Learning from live traffic: one grade per answer and no groups, and does the whole service get better from that.

Real processes (HTTP, Postgres, Redis, Celery) in a fresh directory per condition, driven by simulated users on
loopback. Leaves out the rivals of LEPO, which need no service to be compared.
"""
