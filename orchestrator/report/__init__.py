"""The report of a run: one self-contained HTML page, made from what the run left in storage.

evidence   what is read: summary, experiment, histories, predictions
findings   what is computed from it: intervals, calibration, confusion, disagreement
robustness the section on `ekd evaluate`, where it was called
charts     figures by matplotlib, turned into SVG that follows the page's colours (svg)
page       all of it poured into `page.html.j2`
"""

import logging

# Where no home folder can be written it would say so on stderr when it is imported; it works without one.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

from orchestrator.report.evidence import Evidence, load_evidence  # noqa: E402
from orchestrator.report.page import RegistryStatus, render  # noqa: E402

__all__ = ["Evidence", "RegistryStatus", "load_evidence", "render"]
