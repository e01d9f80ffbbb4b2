"""The gradient of LEPO's loss at a real vocabulary, against the straightforward way; `lepo bench update`."""
