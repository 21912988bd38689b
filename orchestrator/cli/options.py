"""Options that several commands of `ekd` have."""

from __future__ import annotations

import argparse

CHANGES_AN_EXPERIMENT = "change a key of the experiment, dotted: --set student.training.epochs=20; repeats"


def add_overrides(parser: argparse.ArgumentParser, help_text: str = CHANGES_AN_EXPERIMENT) -> None:
    """`--set KEY=VALUE`, as `overrides`."""
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help=help_text
    )


def add_storage(parser: argparse.ArgumentParser) -> None:
    """`--storage` and `--endpoint-url`: where runs are kept."""
    parser.add_argument("--storage", metavar="URI", default="ekd-runs", help="default: ./ekd-runs")
    parser.add_argument("--endpoint-url", metavar="URL", help="of an S3-compatible store")
