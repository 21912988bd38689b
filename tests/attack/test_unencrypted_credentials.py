"""Who listens on the way hears no credential, and who reads `ekd plan` first learns where one will go."""

import pytest

from orchestrator.cli.main import main
from orchestrator.errors import EkdError
from orchestrator.experiment.hosts import host_of, is_this_machine, why_exposed
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.contacts import contacts
from orchestrator.runtime import ray_session
from orchestrator.storage import open_storage
from orchestrator.tracking import TrackingError, check_tracking

pytestmark = pytest.mark.attack

ELSEWHERE = "mlflow.invalid"  # a name that is nobody's (RFC 2606)


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user with no credentials but those that a test gives."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "RAY_ADDRESS"),
        *("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "NETRC"),
        *("EKD_ALLOW_INSECURE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"),
        *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"),
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


SOURCES = ["token", "password", "in the URI", "MLflow's own file", "netrc", "a plugin", "AWS's signature"]


@pytest.mark.parametrize("source", SOURCES)
def test_mlflows_credentials_go_over_http_to_this_machine_only(user, tmp_path, source):
    uri = f"http://{ELSEWHERE}:5000"
    if source == "token":
        user.setenv("MLFLOW_TRACKING_TOKEN", "S3cret")
    elif source == "password":
        user.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        user.setenv("MLFLOW_TRACKING_PASSWORD", "S3cret")
    elif source == "in the URI":
        uri = f"http://ann:S3cret@{ELSEWHERE}:5000"
    elif source == "netrc":
        (tmp_path / ".netrc").write_text(f"machine {ELSEWHERE} login ann password S3cret\n")
        (tmp_path / ".netrc").chmod(0o600)
    elif source == "a plugin":
        user.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    elif source == "AWS's signature":
        user.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    else:
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = ann\n")
    with pytest.raises(TrackingError, match=f"unencrypted.* export EKD_ALLOW_INSECURE={ELSEWHERE}$") as error:
        check_tracking(uri)
    assert "S3cret" not in str(error.value)
    for allowed in (uri.replace("http:", "https:"), "http://127.0.0.1:1"):
        with pytest.raises(TrackingError, match="cannot reach"):
            check_tracking(allowed)
    user.setenv("EKD_ALLOW_INSECURE", f"other.invalid, {ELSEWHERE}")
    with pytest.raises(TrackingError, match="cannot reach"):
        check_tracking(uri)


def test_without_credentials_http_is_nobodys_concern():
    with pytest.raises(TrackingError, match="cannot reach"):
        check_tracking(f"http://{ELSEWHERE}:5000")


def test_the_session_token_of_s3_goes_over_http_to_this_machine_only(user):
    user.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    user.setenv("AWS_SECRET_ACCESS_KEY", "S3cret")
    place, server = "s3://bucket/x", f"http://{ELSEWHERE}:9000"
    open_storage(place, server)  # what is signed with the secret key does not hold it
    user.setenv("AWS_SESSION_TOKEN", "S3cret")
    with pytest.raises(ValueError, match="session token would cross the network unencrypted"):
        open_storage(place, server)
    open_storage(place, "http://127.0.0.1:9000")
    open_storage(place, f"https://{ELSEWHERE}")
    open_storage(place)
    user.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(ValueError, match="session token would cross"):
        open_storage(place)
    user.setenv("EKD_ALLOW_INSECURE", ELSEWHERE)
    open_storage(place, server)


def test_rays_token_goes_to_no_other_machine_that_an_experiment_names(user, tmp_path):
    user.setenv("RAY_AUTH_TOKEN", "S3cret")
    user.setattr(ray_session, "why_unreachable", lambda address: None)
    cluster = Cluster(address=f"{ELSEWHERE}:6379")
    with pytest.raises(EkdError, match=r"cluster\.address mlflow\.invalid:6379: Ray's token would cross"):
        ray_session.start_ray(cluster, tmp_path / "ray.log")


def test_a_submission_warns_of_a_token_in_the_clear(user, tmp_path, capsys):
    user.setenv("RAY_AUTH_TOKEN", "S3cret")
    settings = [f"storage.uri={tmp_path}", "tracking.uri=http://mlflow.lan"]
    words = [word for setting in settings for word in ("--set", setting)]
    main(["submit", "digits", "--address", f"http://{ELSEWHERE}:8265", *words])
    assert capsys.readouterr().err.startswith("WARNING: Ray's token would cross the network unencrypted")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_the_loopback_is_this_machine(host):
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host", ["", "192.0.2.1", "8.8.8.8", "127.0.0.1.invalid", "localhost.invalid", "2001:db8::1"]
)
def test_nothing_else_is(host):
    assert not is_this_machine(host)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1@evil.invalid",
        r"http://evil.invalid\@127.0.0.1",
        "http://[::1].evil.invalid",
        "http://[broken",
        "http://evil.invalid#@127.0.0.1",
        "//127.0.0.1.evil.invalid",
    ],
)
def test_an_address_that_looks_like_this_machine_is_not(uri):
    assert not is_this_machine(host_of(uri))
    assert why_exposed(uri, "it") is not None


CONTACTS = {
    "nobody": ([], "no other host"),
    "a server": (["tracking.uri=http://mlflow.lan:5000/x"], "mlflow.lan:5000 (tracking.uri)"),
    "AWS": (["storage.uri=s3://b/x", "data.root=s3://b/y"], "AWS (storage.uri, data.root)"),
    "a store": (
        ["storage.uri=s3://bucket", "storage.endpoint_url=https://s3.lan", "tracking.uri=sqlite:////x/y.db"],
        "s3.lan (storage.uri)",
    ),
    "a cluster": (["cluster.address=ray://head.lan:10001"], "head.lan:10001 (cluster.address)"),
    "hubs": (
        [
            *(
                "data.name=hugging_face",
                "data.path=somebody/images",
                "teachers.weights=timm:resnet18.a1_in1k",
                "teachers.fine_tune=true",
            ),
            "student.architecture.weights=torchvision:ResNet18_Weights.DEFAULT",
        ],
        "huggingface.co (data.path, teachers.0.weights), download.pytorch.org (student.architecture.weights)",
    ),
    "a bucket of weights": (
        ["teachers.weights=s3://b/w.pth", "teachers.fine_tune=true"],
        "AWS (teachers.0.weights)",
    ),
    "mirrors": (["data.download=true"], "the mirrors of digits (data.download)"),
    "no URI": (["tracking.uri=http://[broken"], "[broken (tracking.uri)"),
}


@pytest.mark.parametrize(("settings", "said"), CONTACTS.values(), ids=CONTACTS.keys())
def test_the_hosts_of_an_experiment_are_named(user, tmp_path, settings, said):
    user.setattr("orchestrator.runtime.address.note_of_ray_start", lambda: tmp_path / "no cluster")
    assert contacts(load_experiment("digits", settings)) == said


def test_the_environments_hosts_are_named_without_their_credentials(user):
    user.setenv("MLFLOW_TRACKING_URI", "https://ann:S3/cr@et@mlflow.lan/x")
    user.setenv("AWS_ENDPOINT_URL_S3", "https://s3.lan")
    user.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert contacts(load_experiment("digits", ["storage.uri=s3://bucket"])) == (
        "s3.lan (storage.uri), mlflow.lan (tracking.uri), 10.0.0.1:6379 (cluster.address)"
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("storage.uri=S3://bucket/x", "write s3://, in small letters"),
        ("tracking.uri=postgresql://good.example/db?host=evil.example", "its parameter host leads elsewhere"),
        ("tracking.uri=mysql://good.example/db?unix_socket=/x", "its parameter unix_socket leads elsewhere"),
        ("tracking.uri=mssql+pyodbc:///?odbc_connect=PWD%3DS3cret", "credentials do not belong in an experi"),
        ("cluster.address=ann:S3cret@127.0.0.1:6399", "credentials do not belong in an experiment"),
        ("cluster.address=ray://ann:S3cret@127.0.0.1:1", "credentials do not belong in an experiment"),
        ("data.path=https://ann:S3cret@hub.example/x", "credentials do not belong in an experiment"),
    ],
)
def test_an_address_whose_host_is_elsewhere_or_that_holds_a_secret_is_refused(user, capsys, setting, said):
    assert main(["plan", "digits", "--set", setting]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "S3cret" not in shown.out + shown.err
    assert shown.err.count("\n") == 1


def test_plan_says_first_whose_code_it_runs(user, capsys, tmp_path):
    user.chdir(tmp_path)
    (tmp_path / "their_data.py").write_text("raise SystemExit('ran')")
    with pytest.raises(SystemExit, match="ran"):
        main(["plan", "digits", "--set", "data.name=their_data:images", "--set", "cluster.address=local"])
    assert capsys.readouterr().out == "contacts  no other host; runs the code of their_data\n"


def test_plan_names_them_first_and_then_refuses(user, capsys):
    user.setenv("MLFLOW_TRACKING_TOKEN", "S3cret")
    uri = f"http://{ELSEWHERE}:5000"
    assert (
        main(["plan", "digits", "--smoke", "--set", "cluster.address=local", "--set", f"tracking.uri={uri}"])
        == 2
    )
    shown = capsys.readouterr()
    assert shown.out == f"contacts  {ELSEWHERE}:5000 (tracking.uri)\n"
    assert shown.err.count("\n") == 1
    assert f"EKD_ALLOW_INSECURE={ELSEWHERE}" in shown.err
