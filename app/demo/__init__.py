"""The circle, shown: simulated users against the real stack, until the policy is measurably better.

Starts the same processes, routes and tables as production and speaks to them over HTTP only.
"""
