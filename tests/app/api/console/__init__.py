"""The console as people use it: signed in, in a real Chromium, by keyboard, at 390 px."""
