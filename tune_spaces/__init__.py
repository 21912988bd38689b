"""Search spaces: dotted experiment keys to domains, with the reason for each range; no logic."""
