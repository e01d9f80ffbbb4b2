"""Taking out of texts what must not be stored: the hook, and one example that knows e-mail addresses, numbers and keys.

Imports nothing of the product but its errors. A service names its own function in LEPO_REDACT.
"""
