"""What is looked at: by people the dashboard, its figures and the answers; by machines the server's health."""
