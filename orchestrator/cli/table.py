"""Every command of `ekd`: what its help says, and its arguments.

What a command does is in `orchestrator/cli/commands/`, in the module of its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.cli.arguments import (
    ENDPOINT_URL,
    OVERRIDES,
    REASON,
    REGISTRY,
    RUN,
    STORAGE,
    STORED_RUN,
    Argument,
    argument,
    overrides,
)


@dataclass(frozen=True)
class Command:
    """A command, as `ekd --help` and `ekd COMMAND --help` show it."""

    help: str
    """One line of `ekd --help`."""
    description: str
    arguments: Sequence[Argument]
    search: Literal["possible", "required"] | None = None
    """Whether it takes the options of a search too."""


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "train, distil, average, evaluate and register; again: continue",
        "The whole main job. The same command again continues an interrupted run and redoes nothing. The "
        "last line on stdout is the registered model's URI.",
        RUN,
    ),
    "plan": Command(
        "what would run, where, and what it would cost",
        "Every training run with its workers, batch, learning rate and cost, against what the cluster has, "
        "and where things are stored. Starts nothing; exit status 2 if it can never be scheduled.",
        (
            *RUN,
            argument(
                "--memory",
                action="store_true",
                help="how much a worker needs too, in a second or two; said of GPUs anyway",
            ),
        ),
        search="possible",
    ),
    "pack": Command(
        "pack an experiment's images, which a run then decodes batch by batch",
        "Packs the images of `image_folder`, `table` or `hugging_face` into shards in the user's cache, as "
        "`ekd run` does by itself where they would not fit into memory. The same command again continues "
        "after what is packed.",
        RUN,
    ),
    "tune": Command(
        "search for the best student, then train it in full and register it",
        "Trains the teachers once, searches a space with Ray Tune, then trains, averages, evaluates and "
        "registers the best configuration. The same command again continues. The last line on stdout is the "
        "registered model's URI.",
        RUN,
        search="required",
    ),
    "submit": Command(
        "the same main job on a Ray cluster, through its job API",
        "Sends the code and the experiment (no data, no credentials), starts `ekd run`, or with --space `ekd "
        "tune`, on the cluster's head and follows its log. Ctrl-C lets go of it: it runs on. A run that is "
        "running is attached to, one that failed is continued.",
        (
            *RUN,
            argument(
                "--address",
                metavar="URL",
                help="the cluster's dashboard, HEAD:8265; default: RAY_API_SERVER_ADDRESS",
            ),
            argument(
                "--no-wait",
                dest="wait",
                action="store_false",
                help="do not follow the log: submit and return",
            ),
        ),
        search="possible",
    ),
    "register": Command(
        "register a run, and write to MLflow what it lacks of it",
        "The last stages of a run that is trained and measured, without Ray: register the student, write "
        "summary and report, and write to MLflow all that is stored. For a tracking server that was away, or "
        "lost what it had; nothing is written twice.",
        (*STORED_RUN, OVERRIDES),
    ),
    "clean": Command(
        "remove what finished runs no longer need",
        "Removes checkpoints and Ray's files of finished runs; networks, results and manifest stay. With "
        "--everything, all that the named run has in storage; MLflow keeps what it has, and a run that has "
        "registered a version is removed with --registered-too alone. Networks that no run refers to any "
        "more go too, and packed images, unless a run is going on that may fetch them.",
        (
            argument("run_id", nargs="?", metavar="RUN_ID", help="default: all finished runs"),
            argument("--everything", action="store_true", help="remove the named run, finished or not"),
            argument(
                "--registered-too",
                action="store_true",
                help="with --everything: even if the run has registered a version, which stays in MLflow",
            ),
            argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing"),
            *REGISTRY,
            ENDPOINT_URL,
            argument(
                "--trust-stored",
                action="store_true",
                help="ask the tracking.uri that stands in the run's files, with your credentials, wherever "
                "it is",
            ),
        ),
    ),
    "status": Command(
        "where runs stand",
        "All runs of a storage and the newest, or the stages and training runs of one.",
        (
            argument("run_id", nargs="?", metavar="RUN_ID", help="default: all runs, and the newest"),
            STORAGE,
            ENDPOINT_URL,
        ),
    ),
    "report": Command(
        "the results of a run, here and as a page",
        "Prints the table of results and writes the HTML report anew, beside the run and, where MLflow "
        "answers, among its artifacts; the last line on stdout is where it is.",
        (argument("run_id", nargs="?", metavar="RUN_ID", help="default: the newest"), *STORED_RUN[1:]),
    ),
    "evaluate": Command(
        "a finished run under corruption, on foreign images, and when it should not answer",
        "Corrupts the test images in the common ways, at severities 1 to 5; compares the predictors' doubt "
        "on images of another data set; and measures the error among the images they are sure of. A report "
        "on a finished run: nothing is selected by it. The same settings again: not done again. The last "
        "line on stdout is where the results are.",
        (
            *STORED_RUN,
            overrides("a key of `ekd keys --evaluate`, as images=1000 or severities=[1,3,5]; repeats"),
        ),
    ),
    "models": Command(
        "registered students, their metrics and aliases",
        "Every registered version, the newest first, with its metrics and cost, its run, and why it has, or "
        "no longer has, its alias.",
        (
            argument("name", nargs="?", metavar="NAME", help="of a registered model; default: all"),
            *REGISTRY,
        ),
    ),
    "promote": Command(
        "make a version the champion",
        "Moves the alias `champion` to this version, in one step, and records why.",
        (
            argument("model", metavar="models:/NAME/VERSION", help="the version that becomes the champion"),
            REASON,
            *REGISTRY,
        ),
    ),
    "rollback": Command(
        "make the previous champion the champion again",
        "Moves the alias `champion` back to the version that had it before, and records why. Again: one "
        "further back, to the first.",
        (argument("name", metavar="NAME", help="of the registered model"), REASON, *REGISTRY),
    ),
    "export": Command(
        "the averaged student as a pt2, ONNX or state-dict file",
        "Writes the student; checks its weights against the recorded SHA-256, and the file's logits against "
        "the network's. The last line on stdout is the file.",
        (
            argument(
                "source", metavar="RUN_ID|models:/...", help="models:/NAME/VERSION or models:/NAME@ALIAS"
            ),
            argument(
                "--format",
                choices=("pt2", "onnx", "state-dict"),
                help="default: by PATH, onnx for .onnx, state-dict for .safetensors, else pt2 (torch.export)",
            ),
            argument("--output", metavar="PATH", required=True, help="the file to write"),
            argument("--overwrite", action="store_true", help="replace PATH and PATH.json if they are there"),
            argument(
                "--trust-stored",
                action="store_true",
                help="run the code that a run names as package.module:name",
            ),
            ENDPOINT_URL,
            *REGISTRY,
        ),
    ),
    "experiments": Command(
        "what is packaged",
        "The packaged experiments and search spaces; copy one to a file of yours to change it.",
        (argument("name", nargs="?", metavar="NAME", help="print the YAML of this experiment or space"),),
    ),
    "keys": Command(
        "every key of an experiment: default, range and meaning",
        "Every key, as --set and an experiment's file take it, with its default, what it takes and what it "
        "decides.",
        (
            argument(
                "prefix", nargs="?", metavar="PREFIX", default="", help="of the dotted names; default: all"
            ),
            argument("--evaluate", action="store_true", help="the keys of `ekd evaluate --set` instead"),
        ),
    ),
    "schema": Command(
        "the JSON schema of an experiment, for editors",
        "Prints it. In a file that an experiment names in its first line (`# yaml-language-server: "
        "$schema=experiment.schema.json`) it gives completion, and the meaning of a key under the mouse.",
        (),
    ),
    "doctor": Command(
        "whether cluster, storage, tracking and data are usable from here",
        "Tries everything that a run would use, and says what is wrong and what to do. Exit status 2 if "
        "something is not usable.",
        (
            argument("experiment", nargs="?", default="digits", metavar="EXPERIMENT", help="default: digits"),
            OVERRIDES,
        ),
    ),
}
