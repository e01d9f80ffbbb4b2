"""The service saturated for minutes, with an update every few seconds: what grows, what starves."""
