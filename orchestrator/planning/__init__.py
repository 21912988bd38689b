"""What would run, what it needs and costs, and whether it can run here."""
