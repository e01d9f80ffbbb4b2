"""What is done with each client: programs that run in the client's own environment and know nothing of the server.

One module per client, with its package's name as PACKAGE and its DOINGS: what is done, in the words of docs/clients.md,
and the function that does it and raises where it did not work. Nothing heavy is imported before a function runs: the
tests read DOINGS where the client is not installed. The model is random, so what it says means nothing; that it calls a
tool is required of it, and that it keeps to a form too.
"""
