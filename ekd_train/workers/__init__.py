"""What a worker process does: jobs, alone or together with others."""
