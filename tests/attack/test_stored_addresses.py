"""Who writes a run's files writes addresses into them: nobody is contacted whom the user does not name."""

import argparse
import json
import shutil
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.stored_runs import own_tracking, with_own_places
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.export.source import from_registry
from orchestrator.registry.exported_model import ARCHIVE_TAG
from orchestrator.tracking import Tracker, TrackingError
from orchestrator.tracking.connection import check_location, connect
from orchestrator.tuning.pool import trial_experiment

pytestmark = pytest.mark.attack

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user with a token, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-the-user")
    return monkeypatch


@pytest.fixture
def heard():
    """Somebody who listens on `port` of this machine, and what was sent there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sent = argparse.Namespace(port=server.getsockname()[1], texts=[])

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    sent.texts.append(connection.recv(10_000))

        threading.Thread(target=listen, daemon=True).start()
        yield sent
        server.shutdown(socket.SHUT_RDWR)


def stored(**addresses: dict) -> None:
    """A finished run below `runs`, in whose experiment somebody has changed addresses."""
    shutil.copytree(GOLDEN / "finished", "runs/finished")
    file = Path("runs/finished/experiment.json")
    tree = json.loads(file.read_text())
    for key, values in addresses.items():
        tree[key] |= values
    file.write_text(json.dumps(tree))


def test_a_report_is_written_and_says_whom_it_did_not_ask(heard, capsys):
    uri = f"http://127.0.0.1:{heard.port}"
    stored(tracking={"uri": uri})
    assert main(["report", "finished", "--storage", "runs"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].endswith("report.html")
    assert shown.err.count("\n") == 1
    assert f"finished/experiment.json says tracking.uri {uri}" in shown.err
    assert f"add --tracking {uri}, or --trust-stored" in shown.err
    assert heard.texts == []
    assert f"MLFLOW_TRACKING_URI={uri}" not in Path("runs/finished/report.html").read_text()


@pytest.mark.parametrize("word", ["--trust-stored", "--tracking"])
def test_who_says_so_contacts_it(heard, word):
    uri = f"http://127.0.0.1:{heard.port}"
    stored(tracking={"uri": uri})
    words = [word, uri] if word == "--tracking" else [word]
    assert main(["report", "finished", "--storage", "runs", *words]) == 0
    assert b"Bearer token-of-the-user" in heard.texts[0]


def test_register_asks_before_it_contacts_anybody(heard, capsys):
    here = f"127.0.0.1:{heard.port}"
    stored(tracking={"uri": f"http://{here}"}, cluster={"address": here})
    assert main(["register", "finished", "--storage", "runs"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--trust-stored" in err
    assert heard.texts == []


@pytest.fixture
def others(heard, monkeypatch):
    """A listener in the place of AWS and of the hub, and a user with keys for both."""
    here = f"http://127.0.0.1:{heard.port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAUSER",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": here,
        "AWS_DEFAULT_REGION": "us-east-1",
        "HF_ENDPOINT": here,
        "HF_TOKEN": "hf_token",
    }.items():
        monkeypatch.setenv(name, value)
    return heard


@pytest.mark.parametrize("command", ["register", "evaluate"])
@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("data.root", {"root": "s3://attacker-bucket/data"}),
        ("data.path", {"name": "hugging_face", "path": "attacker/dataset"}),
        ("data.path", {"name": "hugging_face", "root": "/nowhere", "path": "attacker/dataset"}),
    ],
)
def test_data_are_fetched_from_where_the_user_says(others, capsys, command, key, data):
    stored(data=data)
    assert main([command, "finished", "--storage", "runs"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"finished/experiment.json says {key} " in err
    assert "add --trust-stored" in err
    assert others.texts == []


@pytest.mark.parametrize("command", ["register", "evaluate"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"path": "LICENSE"}, "LICENSE"),
        ({"root": "/nowhere", "path": "mine"}, "/nowhere/mine"),
        ({"root": "/nowhere", "path": "of/mine"}, "/nowhere/of/mine"),
    ],
)
def test_what_lies_where_the_user_is_is_not_asked_of_the_hub_nor_read(others, capsys, command, data, said):
    """A file is not on the hub for being no folder; and the library would read a folder here instead."""
    stored(data={"name": "hugging_face", **data})
    Path("LICENSE").touch()
    for folder in ("mine", "of/mine"):
        Path(folder).mkdir(parents=True)
        readme = f"---\nconfigs: [{{data_files: http://127.0.0.1:{others.port}/x.parquet}}]\n---"
        Path(folder, "README.md").write_text(readme)
    assert main([command, "finished", "--storage", "runs"]) == 2
    assert f"{said}: is no folder, and no `owner/name` of the hub" in capsys.readouterr().err
    assert others.texts == []


def test_nothing_is_downloaded_because_a_stored_run_says_so(monkeypatch):
    elsewhere = load_experiment("cifar10", ["data.root=/of/the/user", "data.download=true"])
    assert not with_own_places(elsewhere, arguments()).data.download
    assert with_own_places(elsewhere, arguments(trust_stored=True)).data.download


def test_data_in_the_storage_that_the_user_names_or_by_their_own_word_are_not_asked_for():
    below = load_experiment("digits", ["data.root=s3://bucket/runs/data"])
    with_own_places(below, arguments(storage="s3://bucket/runs"))
    elsewhere = load_experiment("digits", ["data.root=s3://bucket/runs-of-others"])
    with pytest.raises(ExperimentError, match=r"data\.root s3://bucket/runs-of-others"):
        with_own_places(elsewhere, arguments(storage="s3://bucket/runs"))
    with_own_places(elsewhere, arguments(), {"data.root"})
    with_own_places(elsewhere, arguments(trust_stored=True))


@pytest.mark.parametrize("weights", ["s3://attacker-bucket/w.pth", "models:/m/1", "timm:resnet18.a1_in1k"])
def test_weights_that_a_run_began_with_are_not_fetched_again(others, monkeypatch, weights):
    def fail(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("orchestrator.pretrained.read._read", fail)
    stored()
    file = Path("runs/finished/experiment.json")
    tree = json.loads(file.read_text())
    tree["student"]["architecture"] |= {"weights": weights, "weights_sha256": "0" * 64}
    file.write_text(json.dumps(tree))
    assert main(["register", "finished", "--storage", "runs"]) == 0  # its networks lie in the storage
    assert others.texts == []


def arguments(**named) -> argparse.Namespace:
    defaults = {"run_id": "x", "storage": "runs", "endpoint_url": None, "tracking": None}
    return argparse.Namespace(**(defaults | {"trust_stored": False} | named))


FOREIGN = [
    "http://mlflow.example.org:5000",
    "https://mlflow.example.org",
    "postgresql://mlflow.example.org/x",
    "databricks",
    "http://127.0.0.1:5000",  # another user's, who would get the token
    "sqlite:////home/ann/other.db",
    "sqlite:///runs/../other.db",
    "sqlite:///runs/link/other.db",
]


@pytest.mark.parametrize("uri", FOREIGN)
def test_a_stored_address_is_asked_for(uri, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    with pytest.raises(ExperimentError, match="--trust-stored") as caught:
        own_tracking(uri, arguments())
    assert "\n" not in str(caught.value)
    assert own_tracking(uri, arguments(trust_stored=True)) == uri
    assert own_tracking(uri, arguments(tracking="http://own")) == "http://own"


@pytest.mark.parametrize("uri", [None, "sqlite:///runs/mlflow.db", "sqlite:///runs/deeper/x.db"])
def test_a_file_below_the_storage_needs_no_word(uri):
    assert own_tracking(uri, arguments()) == uri


def test_the_environments_own_address_needs_no_word(user):
    user.setenv("MLFLOW_TRACKING_URI", FOREIGN[0])
    assert own_tracking(FOREIGN[0], arguments()) == FOREIGN[0]
    with pytest.raises(ExperimentError):
        own_tracking(FOREIGN[1], arguments())


def test_a_server_here_needs_no_word_where_nothing_secret_goes_to_it(user):
    user.delenv("MLFLOW_TRACKING_TOKEN")
    assert own_tracking("http://localhost:5000", arguments()) == "http://localhost:5000"
    with pytest.raises(ExperimentError):
        own_tracking(FOREIGN[0], arguments())


def test_store_and_cluster_are_never_the_stored_ones():
    settings = ["storage.endpoint_url=http://evil.example.org", "cluster.address=evil.example.org:6379"]
    own = with_own_places(load_experiment("digits", [*settings, "storage.uri=s3://evil/x"]), arguments())
    assert (own.storage.uri, own.storage.endpoint_url, own.cluster.address) == ("runs", None, "local")


@pytest.mark.parametrize("key", ["cluster.address", "storage.endpoint_url", "tracking.uri", "data.root"])
def test_a_stored_trial_names_no_address(key):
    with pytest.raises(ExperimentError, match="no trial sets it"):
        trial_experiment(load_experiment("digits"), {key: "evil.example.org:80"})


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    """An empty database of MLflow's: to make one takes seconds."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    connect(f"sqlite:///{file}")
    return file


@pytest.fixture
def client(database, user):
    """Of a copy in a storage that holds a finished run."""
    stored()
    shutil.copyfile(database, "runs/mlflow.db")
    return connect(f"sqlite:///{Path('runs/mlflow.db').absolute()}")


def with_parent_at(client, place: str) -> str:
    """The stored run gets a parent run in the database, with artifacts below `place`; where they are."""
    run = client.create_run(client.create_experiment("golden", place))
    file = Path("runs/finished/manifest.json")
    manifest = json.loads(file.read_text())
    manifest["mlflow"] = {"parent": run.info.run_id}
    file.write_text(json.dumps(manifest))
    return run.info.artifact_uri


def test_no_token_goes_where_a_database_in_the_storage_says_that_artifacts_are(heard, client, capsys):
    place = f"http://127.0.0.1:{heard.port}/api/2.0/mlflow-artifacts/artifacts"
    with_parent_at(client, place)
    assert main(["report", "finished", "--storage", "runs"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"says that artifacts are at {place}" in err
    assert heard.texts == []


ELSEWHERE = ["file://{home}", "file:{home}", "{home}", "{runs}/../home", "{runs}/link", "s3://bucket/x"]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_nothing_is_written_elsewhere_whatever_a_database_says(client, tmp_path, capsys, place):
    home, runs = tmp_path / "home", tmp_path / "runs"
    home.mkdir()
    (runs / "link").symlink_to(home)
    with_parent_at(client, place.format(home=home, runs=runs))
    assert main(["report", "finished", "--storage", "runs"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"which is not below {runs}; give the experiment another name, or set tracking.uri" in err
    assert list(home.iterdir()) == []
    with pytest.raises(TrackingError, match="which is not below"):
        Tracker.open(f"sqlite:///{runs}/mlflow.db", "golden", "a-run", instance="1", storage_uri=str(runs))


def test_a_report_is_not_written_through_a_link_among_the_artifacts(client, tmp_path):
    (tmp_path / "precious").write_text("of the user")
    artifacts = Path(with_parent_at(client, f"{tmp_path}/runs/mlartifacts/golden"))
    artifacts.mkdir(parents=True)
    (artifacts / "report.html").symlink_to(tmp_path / "precious")
    assert main(["report", "finished", "--storage", "runs"]) == 0
    assert (tmp_path / "precious").read_text() == "of the user"
    assert (artifacts / "report.html").read_text() == Path("runs/finished/report.html").read_text()


@pytest.mark.parametrize("beginning", ["http://127.0.0.1:{port}/x", "runs:/other/x"])
def test_no_token_goes_where_a_registry_in_the_storage_says_that_a_model_is(heard, client, beginning):
    client.create_registered_model("m")
    client.create_model_version("m", beginning.format(port=heard.port), tags={ARCHIVE_TAG: "0" * 64})
    with pytest.raises(TrackingError, match="would be sent MLflow's credentials") as caught:
        from_registry(client, "models:/m/1", "sqlite:///runs/mlflow.db")
    assert "\n" not in str(caught.value)
    assert heard.texts == []


def test_where_no_secret_would_go_the_place_of_artifacts_is_as_the_database_says(user):
    check_location("https://mlflow.example.org", "http://artifacts.example.org")  # its server has the token
    check_location("sqlite:///runs/mlflow.db", "s3://bucket/x")
    user.delenv("MLFLOW_TRACKING_TOKEN")
    check_location("sqlite:///runs/mlflow.db", "http://artifacts.example.org")


@pytest.mark.parametrize("place", ["{home}", "file://{home}", "{runs}/../home", "{runs}/link"])
def test_no_folder_of_the_users_is_copied_where_a_registry_says_that_a_model_is(client, tmp_path, place):
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "model.pt2").write_bytes(b"of the user")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "home")
    client.create_registered_model("m")
    source = place.format(home=tmp_path / "home", runs=tmp_path / "runs")
    client.create_model_version("m", source, tags={ARCHIVE_TAG: "0" * 64})
    with pytest.raises(TrackingError, match="which is not below") as caught:
        from_registry(client, "models:/m/1", f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["wasbs", "abfss"])
def test_azures_token_goes_to_no_host_but_its_own(user, scheme):
    for credentials in (True, False):
        with pytest.raises(TrackingError, match="which is none of Azure's hosts"):
            check_location("sqlite:///runs/mlflow.db", f"{scheme}://c@account.evil.example.org/x")
        with pytest.raises(TrackingError, match="which is none of Azure's hosts"):
            check_location("sqlite:///runs/mlflow.db", f"{scheme}://c@a.blob.core.windows.net.evil.org/x")
        check_location("sqlite:///runs/mlflow.db", f"{scheme}://c@account.dfs.core.windows.net/x")
        if credentials:
            user.delenv("MLFLOW_TRACKING_TOKEN")
