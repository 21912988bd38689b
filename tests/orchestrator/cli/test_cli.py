"""The command as a user meets it: wrong input is one clear line, exit status 2, and nothing started."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.cli.main import FIRST_LINE, main
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.tuning.space import packaged_spaces

HEAVY = ("torch", "ray", "mlflow", "pydantic", "numpy", "rich", "boto3", "yaml")
COMMANDS = ("run", "plan", "tune", "status", "report", "evaluate", "experiments", "doctor")


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    """Each test in a folder of its own, without the caller's cluster and store."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("orchestrator.runtime.address.note_of_ray_start", lambda: tmp_path / "no cluster")


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must be refused, and gives the line that says why."""

    def refuse(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(arguments) == 2
        shown = capsys.readouterr()
        # What `ekd plan` says before it contacts anybody.
        assert re.fullmatch(r"(contacts  .+\n)?" if arguments[0] == "plan" else "", shown.out)
        said = shown.err.removeprefix(f"{FIRST_LINE}\n") if arguments[0] in ("run", "tune") else shown.err
        assert said.startswith("ekd: ")
        assert said.count("\n") == 1, "one line"
        assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        return said

    return refuse


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


WRONG_SETTINGS = {
    "a pruned teacher": (
        "teachers.architecture.pruned=0.25",
        "teachers.architecture.pruned: only the student can be pruned; leave it out",
    ),
    "nothing left of the student": ("student.architecture.pruned=1", "student.architecture.pruned: "),
    "an unknown key": ("studnt.members=4", "studnt: unknown key; did you mean student?"),
    "an unknown key below": (
        "student.member=4",
        "student.member: unknown key; did you mean student.members?",
    ),
    "a key that stands deeper": (
        "teachers.epochs=3",
        "teachers.epochs: unknown key; did you mean teachers.training.epochs?",
    ),
    "a key that stands deeper twice": (
        "epochs=3",
        "epochs: unknown key; did you mean teachers.training.epochs or student.training.epochs?",
    ),
    "what others call it": (
        "student.training.lr=1",
        "student.training.lr: unknown key; did you mean student.training.learning_rate?",
    ),
    "a key like none": ("zzz=1", "zzz: unknown key; known here: name,"),
    "a key with a bracket": ("a(b=1", "'a(b': unknown key"),
    "a key of two lines": ("student.a\nb=1", r"student.'a\nb': unknown key"),
    "no key": ("=4", "write it as key=value"),
    "no value": ("seed", "write it as key=value"),
    "an empty part": ("student..members=4", "is not a key"),
    "a scalar with keys": ("seed.x=1", "seed has no keys below it"),
    "text for a number": ("student.members=four", "valid integer, not 'four'"),
    "quoted number": ('student.members="4"', "valid integer, not '4'"),
    "a fraction": ("student.members=4.5", "valid integer, not 4.5"),
    "a truth value": ("student.members=yes", "valid integer, not true"),
    "nothing": ("storage.uri=", "storage.uri: input should be a valid string, not null"),
    "a scalar for a mapping": ("student=5", "student: input should be a mapping of keys, not 5"),
    "a number of teachers": ("teachers=3", "write one group {count: ..., architecture: ..., training: ...}"),
    "no teachers": ("teachers=[]", "teachers: at least one is needed"),
    "no temperature": (
        "distillation.temperature=0",
        "distillation.temperature: input should be greater than or equal to 0.001",
    ),
    "not a number": ("distillation.temperature=.nan", "finite number"),
    "infinity": ("distillation.temperature=.inf", "finite number"),
    "no members": ("student.members=0", "student.members: input should be greater than or equal to 1"),
    "a negative strength": ("perturbation.strength=-1", "perturbation.strength: input should be greater"),
    "an empty fraction": ("data.train_fraction=0", "data.train_fraction: input should be greater than 0"),
    "more than all": (
        "data.train_fraction=1.5",
        "data.train_fraction: input should be less than or equal to 1",
    ),
    "an unknown data set": ("data.name=mnist", "data.name: input should be 'digits', 'fashion_mnist'"),
    "an unknown perturbation": ("perturbation.kind=tdiv-sdiv", "'tdiv' or 'tdiv_sdiv'"),
    "unpaired members": ("student.members=3", "student.members is 3 but there are 4 teachers"),
    "members that kd lacks": ("student.method=kd", "perturbation.kind=tdiv_sdiv compares two members"),
    "far too many members": ("student.members=100000", "at most 256"),
    "a cache of what changes": (
        "student.training.speed.cache_teachers=true",
        "ekd: student.training.speed.cache_teachers cannot be used: perturbation.kind=tdiv_sdiv makes new",
    ),
    "more than float32 holds": (
        "student.training.learning_rate=1e300",
        "student.training.learning_rate: input should be less than or equal to 10",
    ),
    "no workers": ("cluster.workers_per_run=0", "cluster.workers_per_run: write a number, or [min, max]"),
    "a path with a NUL": ('data.root="\\0"', "--set data.root"),
    "half a character": ('description="\\ud800"', "--set description"),
    "deeper than any network": (
        "student.architecture.depth=99999999",
        "student.architecture.depth: input should be less than or equal to 2000",
    ),
    "workers in threes": ("cluster.workers_per_run=[1,2,3]", "write a number, or [min, max]"),
    "workers backwards": ("cluster.workers_per_run=[2,1]", "[min, max] must have min <= max"),
    "more workers than images": ("cluster.workers_per_run=100", "but a batch has 64 images"),
    "CPUs that no machine has": (
        "cluster.cpus_per_worker=5000",
        "1 worker of 5000 CPUs, but none can ever fit",
    ),
    "workers of a run that share a GPU": (
        "cluster={gpus_per_worker: 0.5, workers_per_run: 2}",
        "workers of one run cannot share a GPU",
    ),
    "a GPU and a half": ("cluster.gpus_per_worker=1.5", "write a whole number, or one below 1"),
    "GPUs that no machine has": ("cluster.gpus_per_worker=999", "cluster.gpus_per_worker"),
    "no such address": ("cluster.address=nonsense", "it is not host:port"),
    "an unknown architecture": ("student.architecture.name=resnet99", "the nearest are resnet"),
    "a depth that it lacks": ("student.architecture.depth=11", "depth must be 6n+4"),
    "no channel left": ("student.architecture.width=0.001", "leaves no channel"),
    "too wide for any memory": ("student.architecture.width=1e30", "student:"),
    "a batch larger than the data": ("student.training.batch_size=201", "there are 200 training images"),
    "a crop wider than the image": ("data.augmentation.crop_padding=8", "images are 8 pixels wide"),
    "a part that is not there": ("student.training.freeze=[layer9]", "student: freeze: there is no 'layer9'"),
    "float16 on a CPU": ("student.training.speed.precision=float16", "float16 is for GPUs"),
    "a scale backwards": ("data.augmentation.scale=[1,0.5]", "the smallest share comes first"),
    "a size that does not apply": ("data.image_size=4", "images of digits keep their size"),
    "too few to validate": ("data.validation_size=5", "data.validation_size: of 5 images cannot show all 10"),
    "more than there are": ("data.validation_size=5000", "data.validation_size: takes 5000 of 797 images"),
    "a home that nobody has": ("storage.uri=~nobody.at.all/x", "begins with a home that is not known"),
    "another scheme": ("storage.uri=ftp://x/y", "storage.uri begins with ftp://, which is not supported"),
    "a bucket without a name": ("storage.uri=s3://", "no valid bucket name"),
    "a file as a folder": ("storage.uri=/etc/passwd", "a file stands where a folder is needed"),
    "a name too long for a folder": (f"storage.uri=/tmp/{'x' * 300}", "choose a shorter storage.uri"),
    "a folder nobody may write": ("storage.uri=/proc/ekd", "/proc/ekd"),
    "a token before the host": ("tracking.uri=http://secrettoken@host", "credentials do not belong"),
    "a password in a query": ("tracking.uri=postgresql://db/x?password=hunter2", "credentials do not belong"),
    "a secret": ("storage.uri=s3://user:pw@b/x", "credentials do not belong in an experiment"),
    "another tracking scheme": ("tracking.uri=ftp://x", "MLflow knows http, https, sqlite"),
    "a model's name as a path": ("tracking.registered_model=a/b", "use letters, digits"),
    "a name as a path": ("name=../x", "name: use letters, digits"),
    "not YAML": ("seed=[1", "not valid YAML: line 1"),
    "YAML that names itself": ("description=&a [*a]", "nested too deeply, or within itself"),
    "an address of no host": ("cluster.address=h]:1", "cluster.address: 'h]:1' is no address: its host or"),
    "an address of no port": (
        "storage.endpoint_url=http://h:http",
        "storage.endpoint_url: 'http://h:http' is no address: its host or its port cannot be one",
    ),
    "YAML that makes objects": ("seed=!!python/object:os.system x", "leave out the tag"),
    "a date": ("seed=2024-12-31", "seed: input should be a valid integer"),
}


@pytest.mark.parametrize(("override", "line"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS.keys())
def test_a_wrong_setting_is_refused_in_one_line(refused, override, line):
    assert line in refused("plan", "digits", "--set", override)


def test_run_refuses_as_plan_does(refused):
    assert "did you mean student.members?" in refused("run", "digits", "--set", "student.member=4")


def test_a_wrong_key_of_a_space_is_not_taken_for_one_that_the_experiment_leaves_out(refused, tmp_path):
    (space := tmp_path / "mine.yaml").write_text(
        "{description: x, domains: {student.membrs: {choice: [1, 2], reason: x}}}"
    )
    line = refused("plan", "digits", "--space", str(space))
    assert "student.membrs: unknown key; did you mean student.members?" in line


def test_a_smoke_run_without_its_gpu_is_refused_in_one_line_too(refused):
    assert "/nowhere" in refused("plan", "cifar10", "--smoke", "--set", "data.root=/nowhere")
    assert "/xx" in refused("plan", "image_folder", "--smoke", "--set", f"data.root=/{'x' * 5000}")


@pytest.mark.parametrize("option", ["--trials", "--seeds", "--time-budget", "--max-concurrent"])
def test_a_search_of_nothing_is_refused(refused, option):
    assert f"{option}: " in refused("tune", "digits", "--space", "student", option, "0")


@pytest.mark.parametrize(
    "option", ["--trials=3", "--seeds=2", "--time-budget=9", "--max-concurrent=1", "--searcher=grid"]
)
def test_a_search_without_a_space_is_not_planned_as_a_run(refused, option):
    assert f"{option.partition('=')[0]} is about a search: add --space" in refused("plan", "digits", option)


@pytest.mark.parametrize("command", [("status",), ("models",), ("plan", "digits")])
def test_a_folder_that_was_removed_under_ones_feet_is_named(refused, tmp_path, monkeypatch, command):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the folder you are in was removed" in refused(*command)


@pytest.mark.parametrize("command", ["status", "models", "clean"])
def test_a_place_that_cannot_be_a_folder_is_refused(refused, command):
    assert "x" * 300 in refused(command, "--storage", "x" * 300)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "ekd: the following arguments are required: COMMAND; `ekd --help` shows how"),
        (["run"], "ekd run: the following arguments are required: EXPERIMENT; `ekd run --help` shows how"),
        (
            ["run", "digits", "--set"],
            "ekd run: argument --set: expected one argument; `ekd run --help` shows how",
        ),
        (["run", "digits", "--fast"], "ekd: unrecognized arguments: --fast; `ekd --help` shows how"),
    ],
)
def test_wrong_arguments_are_one_line_too(capsys, words, line):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("command", ["run", "tune", "plan"])
def test_without_a_terminal_what_trains_says_before_its_imports_what_it_does(command, monkeypatch, capsys):
    said: list[str] = []

    def run(arguments):
        said.append(capsys.readouterr().err)
        return 0

    def load(name):
        said.append(capsys.readouterr().err)
        return SimpleNamespace(run=run)

    monkeypatch.setattr("orchestrator.cli.main.import_module", load)
    words = [command, "digits", *(["--space", "student"] if command == "tune" else [])]
    assert main(words) == 0
    assert said == ["" if command == "plan" else f"{FIRST_LINE}\n", ""]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(words) == 0
    assert FIRST_LINE not in said[2]


def test_a_wrong_key_is_all_that_a_log_has(capsys):
    assert main(["run", "digits", "--set", "studnt.members=4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_everything_that_is_wrong_is_said_at_once(refused):
    line = refused("plan", "digits", "--set", "seed=-1", "--set", "data.train_fraction=2")
    assert "seed: " in line
    assert "data.train_fraction: " in line


WRONG_FILES = {
    "broken": ("a: [1\nb: 2", "not valid YAML: line 2"),
    "a list": ("- a\n- b\n", "an experiment is a mapping of keys, but this is a list"),
    "empty": ("", "the file is empty"),
    "a word": ("hello", "but this is 'hello'"),
    "a key twice": ("seed: 1\nseed: 2\n", "line 2: the key 'seed' stands twice"),
    "a key twice below": ("student:\n  members: 4\n  members: 2\n", "line 3: the key 'members' stands twice"),
    "a number as a key": ("1: 2\n", "a key must be text"),
    "binary": ("\x00\x01", "not valid YAML"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "not valid YAML"),
    "itself within itself": ("student: &a\n  x: *a\n", "nested too deeply, or within itself"),
    "very deep": ("a: " + "[" * 1000, "nested too deeply"),
    "a bomb": ("a: &a [0,0,0,0,0,0,0,0,0,0]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    ), "more than 100000 values"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_wrong_file_is_refused_by_name(refused, tmp_path, text, line):
    (tmp_path / "mine.yaml").write_text(text)
    said = refused("plan", "mine.yaml")
    assert "mine.yaml: " in said
    assert line in said


def test_a_file_in_another_encoding_is_refused(refused, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"description: caf\xe9\n")
    assert "mine.yaml: cannot be read" in refused("plan", "mine.yaml")
    assert "mine.yaml: cannot be read" in refused("experiments", "mine.yaml")
    assert "--space mine.yaml: cannot be read" in refused("plan", "digits", "--space", "mine.yaml")


@pytest.mark.parametrize(
    ("source", "line"),
    {
        "digts": "did you mean digits?",
        "cifar100": "did you mean cifar100_conf_ods or cifar100_latentbe?",
        "nothing like it": "packaged are cifar10,",
        "": "no packaged experiment of that name",
        "missing.yaml": "there is no such file",
        f"{'x' * 300}.yaml": "File name too long",
        "/tmp": "is not a file",
    }.items(),
)
def test_an_experiment_that_is_not_there_is_answered_with_what_is(refused, source, line):
    assert line in refused("plan", source)


@pytest.mark.parametrize("run_id", ["", "../x", "a b", "a/b", ".hidden", "x" * 101, "a\nb"])
def test_a_run_id_that_cannot_be_a_folder_is_refused(refused, run_id):
    assert "--run-id" in refused("plan", "digits", "--run-id", run_id)


def test_a_run_that_cannot_be_continued_is_refused_before_anything_is_touched(refused, tmp_path):
    (tmp_path / "ekd-runs" / "mine").mkdir(parents=True)
    (tmp_path / "ekd-runs" / "mine" / "manifest.json").write_text("{")
    assert "manifest.json: not valid JSON" in refused("run", "digits", "--run-id", "mine")


@pytest.mark.parametrize(
    "manifest",
    [
        "{}",
        '{"format": 1, "stages": 3}',
        '{"format": 1, "stages": {"evaluate": {}}}',
        '{"format": 1, "run_id": "mine", "experiment": "x", "stages": {}, "updated": "today"}',
    ],
)
@pytest.mark.parametrize(
    "command", [("status",), ("report",), ("evaluate",), ("register",), ("clean",), ("export", "--output=x")]
)
def test_a_manifest_that_is_none_is_refused_by_every_command(refused, tmp_path, command, manifest):
    (tmp_path / "ekd-runs" / "mine").mkdir(parents=True)
    (tmp_path / "ekd-runs" / "mine" / "manifest.json").write_text(manifest)
    assert "manifest.json: not the manifest of a run" in refused(command[0], "mine", *command[1:])


def test_an_exponent_without_a_dot_is_a_number():
    from orchestrator.experiment.schema import load_experiment

    experiment = load_experiment("digits", ["student.training.learning_rate=1e-3"])
    assert experiment.student.training.learning_rate == 1e-3


@pytest.mark.parametrize("value", ["010", "1:30"])
def test_what_yaml_1_1_would_take_for_another_number_is_refused(refused, value):
    assert "seed: " in refused("plan", "digits", "--set", f"seed={value}")


def test_a_missing_data_root_is_named(refused):
    line = refused("plan", "fashion_mnist", "--set", "data.root=/nowhere")
    assert "/nowhere" in line
    assert "dataset-fashion-mnist" in line


def test_an_unreachable_tracking_server_is_named_without_its_password(refused, monkeypatch):
    port = closed_port()
    assert f"127.0.0.1:{port}" in refused("plan", "digits", "--set", f"tracking.uri=http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{port}")
    assert "s3cret" not in refused("plan", "digits")


def test_a_cluster_that_does_not_answer_is_refused_in_seconds(refused, monkeypatch):
    address = f"127.0.0.1:{closed_port()}"
    assert f"cluster.address {address}: nothing answers" in refused(
        "plan", "digits", "--set", f"cluster.address={address}"
    )
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert "RAY_ADDRESS" in refused("run", "digits")


def test_the_note_of_a_cluster_that_was_killed_is_ignored(tmp_path, monkeypatch, capsys):
    note = tmp_path / "ray_current_cluster"
    note.write_text(f"127.0.0.1:{closed_port()}")
    monkeypatch.setattr("orchestrator.runtime.address.note_of_ray_start", lambda: note)
    assert main(["plan", "digits"]) == 0
    assert "this machine" in capsys.readouterr().out


@pytest.fixture
def images(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(6):
                pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{i}.png")
    return tmp_path / "images"


def folder_of(images: Path, **changes: object) -> list[str]:
    values = {"name": "image_folder", "root": images, "image_size": "null", "validation_size": 2} | changes
    of_data = [f"--set=data.{key}={value}" for key, value in values.items()]
    return [
        *of_data,
        "--set=cluster={cpus_per_worker: 1, gpus_per_worker: 0}",
    ]  # what is there is asked before


def test_images_of_different_sizes_are_refused_by_name(refused, images):
    Image.new("RGB", (9, 9)).save(images / "train" / "dog" / "3.png")
    assert "dog/3.png" in refused("plan", "tiny_imagenet", *folder_of(images))


def test_a_name_that_is_not_utf_8_is_refused_with_its_folder(refused, images):
    os.rename(images / "train" / "dog", os.fsencode(images / "train") + b"/caf\xe9")
    assert f"{images}/train: holds 'caf\\udce9', whose name is not UTF-8" in refused(
        "plan", "tiny_imagenet", *folder_of(images)
    )


def test_a_class_that_only_the_test_images_have_is_refused(refused, images):
    (images / "test" / "cow").mkdir()
    Image.new("RGB", (8, 8)).save(images / "test" / "cow" / "0.png")
    assert "cow" in refused("plan", "tiny_imagenet", *folder_of(images))


def test_images_too_small_for_an_architecture_are_refused(refused, images):
    line = refused(
        "plan", "tiny_imagenet", *folder_of(images), "--set=teachers.training.batch_size=4",
        "--set=student.training.batch_size=4", "--set=data.augmentation.crop_padding=0",
        "--set=student.architecture={name: inception_v3}",
    )  # fmt: skip
    assert "inception_v3" in line or "images are 3x8x8" in line


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_refused(refused, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        assert "the disk is too full" in refused("plan", "digits", "--set", f"storage.uri={small}/runs")
    finally:
        subprocess.run(["umount", str(small)], check=True)


keys = st.lists(
    st.sampled_from(
        ["student", "teachers", "data", "members", "training", "schedule", "0", "seed", "cluster"]
    )
    | st.text(max_size=6),
    min_size=1,
    max_size=4,
).map(".".join)
NASTY = (
    *(
        "1e999",
        "0x1f",
        "1:30",
        "2001-01-01",
        "~",
        "1_000",
        "9" * 5000,
        "\ud800",
        "- 1",
        "[",
        "{a: b}",
        "<<: 1",
    ),
    *("*a", "&a [*a]", "? [a]\n: b", "!!set {a}", "!!binary aaa", "!!timestamp x", "!!bool x", "!!float x"),
)
values = st.text(max_size=12) | st.sampled_from(NASTY)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=keys, value=values)
def test_no_override_whatsoever_gives_a_traceback(key, value):
    from orchestrator.errors import ExperimentError
    from orchestrator.experiment.schema import Experiment, load_experiment

    with suppress(ExperimentError):
        assert isinstance(load_experiment("digits", [f"{key}={value}"]), Experiment)


LISTING = """
import sys
from orchestrator.cli.main import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def modules_after(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it has imported."""
    command = [sys.executable, "-c", LISTING, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_imports_nothing_that_takes_time(command):
    shown, modules = modules_after(*command, "--help")
    assert shown.startswith("usage: ekd")
    assert not modules.intersection(HEAVY)


def test_every_argument_has_a_help_text():
    from orchestrator.cli.main import build_parser

    parser = build_parser()
    for command in next(a for a in parser._actions if a.dest == "command").choices.values():
        assert command.description
        assert all(action.help for action in command._actions), command.prog


def test_reading_about_runs_imports_neither_torch_nor_ray(tmp_path):
    shown, modules = modules_after("status", "--storage", str(tmp_path))
    assert "no runs in" in shown
    assert not modules.intersection({"torch", "ray", "mlflow", "boto3"})


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["experiments"], 0),
        (["plan", "digts"], 2),
        (["nonsense"], 2),
        ([], 2),
    ],
)
def test_the_installed_command_says_with_its_status_how_it_went(arguments, status, tmp_path):
    command = [sys.executable, "-m", "orchestrator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == (status != 0)


def test_what_is_packaged_is_listed_with_the_search_spaces_and_each_can_be_printed(capsys):
    assert main(["experiments"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    for name in (*packaged_experiments(), *packaged_spaces()):
        assert re.search(rf"^{name} ", shown, re.MULTILINE)
        assert main(["experiments", name]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["description"]
    assert not set(packaged_experiments()) & set(packaged_spaces())


def test_nothing_is_done_at_exit_after_the_exit_at_once():
    """It is the first to be registered, so the last to be called, as long as importing registers nothing."""
    code = "import atexit, orchestrator.cli.main; print(atexit._ncallbacks())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_the_status_is_the_same_where_stderr_is_closed():
    command = f"{sys.executable} -m orchestrator run no-such-experiment 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 2


def test_a_reader_who_leaves_early_makes_nothing_fail(tmp_path):
    command = [sys.executable, "-m", "orchestrator", "status", "--storage", str(tmp_path)]
    unread, written = os.pipe()
    os.close(unread)
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["experiments", "digits"], ["status"]])
def test_results_that_do_not_fit_on_the_disk_are_one_line(tmp_path, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "is full; free some space" in done.stderr


def test_a_path_that_the_terminal_has_no_letters_for_is_printed_all_the_same(tmp_path):
    command = [sys.executable, "-m", "orchestrator", "status", "--storage", str(tmp_path / "ü ☃")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"no runs in" in done.stdout
    assert r"\xfc \u2603" in done.stdout
