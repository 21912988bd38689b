"""Networks that exist before a run: where they come from, whether they fit, and what they are worth."""
