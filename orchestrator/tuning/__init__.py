"""The search of `ekd tune`: which settings make the best student.

What is searched is data (`space`, `domains`), which values are tried is a searcher's business
(`searchers`), how long each trial may train a scheduler's (`schedulers`), a trial trains in its own
process or in a worker pool (`trial`, `trial_executor`), everything that is known of it is in the
run's storage (`trial_store`), and `search` is the only builder of a Ray `Tuner`.
"""
