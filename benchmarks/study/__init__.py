"""The study: does averaging a distilled student's subnetworks work here, where, and where not.

`python -m benchmarks.study --help`. A regime (`regimes`) is data, networks and schedule; an arm (`arms`) is
one way to make a student in it; a cell (`cells`) is one training run of an arm with one seed. Teachers are
trained once a regime, each arm's temperature and strength are chosen by `ekd tune` on validation images,
with teachers and seeds of its own (`choice`), and the test images are read once, of the final cells.
"""
