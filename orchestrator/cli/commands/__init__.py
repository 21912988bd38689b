"""What each `ekd` command does: a module a command, imported after parsing, with a function `run`."""
