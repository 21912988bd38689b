"""Screenshots of MLflow for the pages, small: what the browser test photographed, cut to what the pages show.

EKD_SCREENSHOTS=shots .venv/bin/python -m pytest -n0 tests/orchestrator/registry/test_registry_in_browser.py
python docs/screenshots.py shots
"""

import sys
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "test_the_printed_address_opens_the_table_of_runs": ("mlflow-run", (200, 0, 1410, 850)),
    "test_trials_are_compared_by_what_was_searched_and_by_score": ("mlflow-trials", (200, 0, 1410, 1090)),
    "test_the_list_of_versions_shows_the_champion_and_each_verdict": (
        "mlflow-versions",
        (200, 0, 1410, 1270),
    ),
}
"""Test -> name of the picture, and what of its page is shown: left, top, right, bottom in pixels."""


def main(folder: str) -> None:
    """Write every picture to docs/assets, 900 pixels wide, in 32 colours."""
    for test, (name, part) in PAGES.items():
        picture = Image.open(Path(folder, f"{test}.png")).convert("RGB").crop(part)
        height = round(900 * picture.height / picture.width)
        picture = picture.resize((900, height), Image.Resampling.LANCZOS).quantize(32)
        picture.save(ASSETS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
