"""Ray: its session, the workers, the queue of jobs they work from, what is tried again."""
