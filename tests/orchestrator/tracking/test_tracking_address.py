import subprocess
import sys

import pytest

from orchestrator.tracking.address import (
    artifact_location,
    redacted,
    resolve_tracking_uri,
    runs_page,
    sqlite_file,
    ui_command,
)


def test_importing_tracking_imports_neither_mlflow_nor_torch():
    code = (
        "import sys, orchestrator.tracking, orchestrator.registry, orchestrator.registry.model_card;"
        "print({'mlflow', 'torch', 'ray'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_the_setting_wins_over_the_environment_and_that_over_the_storage_folder(monkeypatch, tmp_path):
    assert resolve_tracking_uri(None, str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert resolve_tracking_uri(None, str(tmp_path)) == "http://from-environment:5000"
    assert resolve_tracking_uri("http://from-setting:5000", str(tmp_path)) == "http://from-setting:5000"


@pytest.mark.parametrize(
    ("storage", "folder"),
    [
        ("runs", "{cwd}/runs"),
        ("/data/my runs", "/data/my runs"),
        ("file:///data/my%20runs", "/data/my runs"),
        ("s3://bucket/prefix", "{cwd}/ekd-runs"),
    ],
)
def test_the_default_store_is_an_absolute_sqlite_file_by_the_storage(storage, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri(None, storage) == f"sqlite:///{folder.format(cwd=tmp_path)}/mlflow.db"


def test_a_relative_sqlite_setting_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///my.db", "/data") == f"sqlite:///{tmp_path}/my.db"


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://host/a.db", "postgresql:///x"])
def test_other_stores_have_no_sqlite_file(uri):
    assert sqlite_file(uri) is None


def test_artifacts_lie_beside_the_sqlite_file_and_elsewhere_where_the_server_says():
    assert artifact_location("sqlite:////my runs/m.db", "a b") == "file:///my%20runs/mlartifacts/a%20b"
    assert artifact_location("http://host", "a") is None


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://ann:pw@host/db", "mysql://host/db", "sqlite://"])
def test_artifacts_of_a_database_lie_in_the_storage_wherever_the_command_was_called(
    uri, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert artifact_location(uri, "a b", "/my runs") == "file:///my%20runs/mlartifacts/a%20b"
    assert artifact_location(uri, "a", "runs") == f"{tmp_path.as_uri()}/runs/mlartifacts/a"
    assert artifact_location(uri, "a", "file:///my%20runs") == "file:///my%20runs/mlartifacts/a"
    assert artifact_location(uri, "a", "s3://bucket/ekd") == "s3://bucket/ekd/mlartifacts/a"
    assert artifact_location("http://host", "a", "/runs") is None


def test_the_ui_command_of_a_database_with_a_password_reads_it_from_the_variable(monkeypatch):
    uri = "postgresql+psycopg2://ann:s3cret@127.0.0.1:5432/mlflow"
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    filled_in = "'postgresql+psycopg2://***@127.0.0.1:5432/mlflow'  # with what *** stands for"
    assert ui_command(uri).endswith(f"--backend-store-uri {filled_in}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://other:pw@host/db")
    assert ui_command(uri).endswith(f"--backend-store-uri {filled_in}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert ui_command(uri) == 'mlflow ui --workers 1 --backend-store-uri "$MLFLOW_TRACKING_URI"'


@pytest.mark.parametrize(
    "uri",
    ["postgresql+psycopg2://ann@127.0.0.1:5432/mlflow", "mysql://ann-1@host/db", "sqlite:////a/m.db"],
)
def test_the_user_of_a_database_is_no_secret(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert redacted(f"cannot open '{uri}': away") == f"cannot open '{uri}': away"
    assert ui_command(uri).endswith(f"--backend-store-uri {uri}")


def test_the_ui_command_quotes_for_the_shell_and_shows_no_password(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("sys.executable", "/my env/bin/python")
    assert (
        ui_command("sqlite:////my runs/m.db")
        == "mlflow ui --workers 1 --backend-store-uri 'sqlite:////my runs/m.db'"
    )
    assert ui_command("http://ann:pw@host:5000") is None


def test_the_page_of_the_runs_is_on_the_server_or_where_the_command_puts_one():
    page = "#/experiments/3?workflowType=machine_learning"
    assert runs_page("http://ann:pw@host:5000/", "3") == f"http://***@host:5000/{page}"
    assert runs_page("sqlite:////m.db", "3") == f"http://127.0.0.1:5000/{page}"


def test_the_ui_command_works_where_the_environment_is_not_activated(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", "/env/bin/python")
    assert (
        ui_command("sqlite:////m.db")
        == "/env/bin/python -m mlflow ui --workers 1 --backend-store-uri sqlite:////m.db"
    )


@pytest.mark.parametrize(
    "text",
    [
        "http://ann:s3cret@host/path",
        "postgresql+psycopg2://ann:s3cret@host/db",
        "https://ann:p@s3cret@host",
        "https://s3cret@host",
        "mysql://host/db?user=ann&password=s3cret",
        "mysql://ann@host/db?user=ann&password=s3cret",
        "postgresql://ann@host/db?url=https://s3cret@host",
        "HTTPConnectionPool: 'http://ann:s3cret@host' refused, see http://other:s3cret@host too",
    ],
)
def test_no_credential_survives_redaction(text):
    assert "s3cret" not in redacted(text)
    assert "host" in redacted(text)
