"""Arguments that several commands of `ekd` have, without anything that takes time to import."""

from typing import Any

Argument = tuple[str, dict[str, Any]]


def argument(name: str, **options: Any) -> Argument:
    """Name and options of `argparse.ArgumentParser.add_argument`."""
    return name, options


def overrides(help_text: str) -> Argument:
    """`--set`."""
    return argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help=help_text
    )


EXPERIMENT = argument("experiment", metavar="EXPERIMENT", help="a packaged experiment's name, or a YAML file")
OVERRIDES = overrides("change a key of the experiment, dotted: --set student.training.epochs=20; repeats")
RUN = (
    EXPERIMENT,
    OVERRIDES,
    argument(
        "--smoke",
        action="store_true",
        help="the same experiment, over two epochs of a few images, in thin networks",
    ),
    argument(
        "--run-id",
        metavar="ID",
        help="default: made of the experiment's name and settings, so that it continues",
    ),
)
"""What is to run."""

STORAGE = argument("--storage", metavar="URI", default="ekd-runs", help="default: ./ekd-runs")
ENDPOINT_URL = argument("--endpoint-url", metavar="URL", help="of an S3-compatible store")
REGISTRY = (
    argument("--tracking", metavar="URI", help="default: MLFLOW_TRACKING_URI, else beside --storage"),
    STORAGE,
)
STORED_RUN = (
    argument("run_id", metavar="RUN_ID", help="as `ekd status` lists it"),
    *REGISTRY,
    ENDPOINT_URL,
    argument(
        "--trust-stored",
        action="store_true",
        help="use the tracking.uri and the place of the data that stand in the run's files, with your "
        "credentials, wherever they are; and run the code that it names as package.module:name",
    ),
)
REASON = argument("--reason", required=True, help="what the next person should know")
