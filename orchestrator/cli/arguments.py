"""The arguments of each command, without anything that takes time to import."""

import argparse

from orchestrator.cli.search_options import add_search_options

CHANGES_AN_EXPERIMENT = "change a key of the experiment, dotted: --set student.training.epochs=20; repeats"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Of `ekd run`."""
    _add_experiment(parser)
    _add_run_id(parser)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Of `ekd plan`."""
    add_run(parser)
    add_search_options(parser, required=False)


def add_tune(parser: argparse.ArgumentParser) -> None:
    """Of `ekd tune`."""
    add_run(parser)
    add_search_options(parser, required=True)


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Of `ekd submit`."""
    add_plan(parser)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, HEAD:8265; default: RAY_API_SERVER_ADDRESS",
    )
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="do not follow the log: submit and return"
    )


def add_register(parser: argparse.ArgumentParser) -> None:
    """Of `ekd register`."""
    _add_stored_run(parser)
    _add_overrides(parser)


def add_clean(parser: argparse.ArgumentParser) -> None:
    """Of `ekd clean`."""
    parser.add_argument("run_id", nargs="?", metavar="RUN_ID", help="default: all finished runs")
    parser.add_argument("--everything", action="store_true", help="remove the named run, finished or not")
    _add_storage(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    """Of `ekd status`."""
    parser.add_argument("run_id", nargs="?", metavar="RUN_ID", help="default: list all runs")
    _add_storage(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Of `ekd report`."""
    _add_stored_run(parser)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Of `ekd evaluate`."""
    _add_stored_run(parser)
    _add_overrides(
        parser, "a key of `ekd_train/robustness/settings.py`, as images=1000 or severities=[1,3,5]; repeats"
    )


def add_models(parser: argparse.ArgumentParser) -> None:
    """Of `ekd models`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a registered model; default: all")
    _add_registry(parser)


def add_promote(parser: argparse.ArgumentParser) -> None:
    """Of `ekd promote`."""
    parser.add_argument("model", metavar="models:/NAME/VERSION", help="the version that becomes the champion")
    parser.add_argument("--reason", required=True, help="what the next person should know")
    _add_registry(parser)


def add_rollback(parser: argparse.ArgumentParser) -> None:
    """Of `ekd rollback`."""
    parser.add_argument("name", metavar="NAME", help="of the registered model")
    parser.add_argument("--reason", required=True, help="what the next person should know")
    _add_registry(parser)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Of `ekd export`."""
    parser.add_argument(
        "source", metavar="RUN_ID|models:/...", help="models:/NAME/VERSION or models:/NAME@ALIAS"
    )
    parser.add_argument(
        "--format",
        choices=("pt2", "onnx", "state-dict"),
        help="default: by PATH, onnx for .onnx, state-dict for .safetensors, else pt2 (torch.export)",
    )
    parser.add_argument("--output", metavar="PATH", required=True, help="the file to write")
    _add_endpoint_url(parser)
    _add_registry(parser)


def add_experiments(parser: argparse.ArgumentParser) -> None:
    """Of `ekd experiments`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the YAML of this experiment or space")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Of `ekd doctor`."""
    parser.add_argument(
        "experiment", nargs="?", default="digits", metavar="EXPERIMENT", help="default: digits"
    )
    _add_overrides(parser)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a packaged experiment's name, or a YAML file"
    )
    _add_overrides(parser)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the same experiment, over two epochs of a few images, in thin networks",
    )


def _add_overrides(parser: argparse.ArgumentParser, help_text: str = CHANGES_AN_EXPERIMENT) -> None:
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help=help_text
    )


def _add_run_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-id",
        metavar="ID",
        help="default: made of the experiment's name and settings, so that it continues",
    )


def _add_stored_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID", help="as `ekd status` lists it")
    _add_registry(parser)
    _add_endpoint_url(parser)
    parser.add_argument(
        "--trust-stored",
        action="store_true",
        help="use the tracking.uri that stands in the run's files, with your credentials, wherever it is; "
        "and run the code that it names as package.module:name",
    )


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URI", default="ekd-runs", help="default: ./ekd-runs")
    _add_endpoint_url(parser)


def _add_endpoint_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-url", metavar="URL", help="of an S3-compatible store")


def _add_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking", metavar="URI", help="default: MLFLOW_TRACKING_URI, else beside --storage"
    )
    parser.add_argument("--storage", metavar="URI", default="ekd-runs", help="default: ./ekd-runs")
