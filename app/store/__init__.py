"""What is remembered: tables and the transactions over them. No torch here."""
