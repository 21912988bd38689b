"""`ekd tune`: search a space with Ray Tune, then train, average and register the best student.

What is searched is data (`space`, `domains`, `proposals`), how long each trial may train is a
scheduler's business (`schedulers`), a trial trains in its own process or in a worker pool
(`trial`), everything that is known of it is in the run's storage (`ledger`), and `search` is the
only builder of a Ray `Tuner`.
"""
