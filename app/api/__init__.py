"""The doors: routes, request and response shapes, authentication."""
