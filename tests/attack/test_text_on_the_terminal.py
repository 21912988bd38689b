"""What runs, tags and errors say was written by others: it is shown, and nothing in it is obeyed."""

import json
import re
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzzing import fuzzed
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from orchestrator.cli.main import main
from orchestrator.cli.terminal import results_console
from orchestrator.experiment.redaction import redacted, visible
from orchestrator.pipeline import cleanup
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.lease_holder import LEASE, this_process
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.registry.listing import list_versions
from orchestrator.registry.model_card import escaped
from orchestrator.storage import open_storage

pytestmark = pytest.mark.attack

GOLDEN = Path(__file__).parents[1] / "golden"

TITLE = "\x1b]0;owned\x07"
TEXTS = ["[/x]", "[red]x", f"a{TITLE}b", "\r\x1b[2Kok", "\x9b31m", "\u202egnp.exe", ":smile:", "\ud800"]


@fuzzed
@given(st.text(st.characters(exclude_categories=[])))
@example(TITLE)
def test_nothing_that_a_terminal_obeys_is_left(text):
    assert not {c for c in visible(text) if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)}
    visible(text).encode()
    assert visible(text) == text or not text.isprintable()


@pytest.mark.parametrize("text", TEXTS)
def test_a_console_prints_text_and_cells_as_they_are(text):
    table = Table("heading")
    table.add_row(text)
    console = PlainConsole(width=100)
    with console.capture() as captured:
        console.print(text)
        console.print(table)
    assert captured.get().count(visible(text)) == 2


@pytest.mark.parametrize(
    "hostile",
    {
        "markup": {"status": "[/x]"},
        "escape": {"status": TITLE},
        "wrong kinds": {"updated": "now", "stages": {"evaluate": {"outputs": {"predictors": [1]}}}},
        "numbers": {"stages": {"evaluate": {"outputs": {"predictors": {"averaged": {"test": 1}}}}}},
        "stages": {"stages": [[]]},
        "huge": {"updated": 1e300},
        "not a number": {"updated": float("nan")},
        "a list": {"status": [1]},
    }.items(),
    ids=lambda case: case[0],
)
def test_one_hostile_run_is_one_row_and_hides_no_other(tmp_path, capsys, hostile):
    storage = open_storage(str(tmp_path))
    whole = {"format": 1, "run_id": "r", "experiment": "e", "stages": {}, "updated": 1.0, "status": "done"}
    storage.write("good/manifest.json", json.dumps(whole).encode())
    storage.write("hostile/manifest.json", json.dumps(whole | hostile[1]).encode())
    assert main(["status", "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out.partition("\n\n")[0]  # below the list stands the newest
    assert [line.split()[0] for line in out.splitlines()[1:]].count("good") == 1
    assert [line.split()[0] for line in out.splitlines()[1:]].count("hostile") == 1
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 500 + b"]" * 500, b"\xff", b"1"]
)
def test_a_manifest_nested_without_end_is_one_row(tmp_path, capsys, content):
    storage = open_storage(str(tmp_path))
    storage.write("hostile/manifest.json", content)
    assert main(["status", "--storage", str(tmp_path)]) == 0
    assert "unreadable" in capsys.readouterr().out
    assert main(["status", "hostile", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Registry:
    """A registry in which somebody has written tags: those of version 2."""

    def __init__(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def search_model_versions(self, _):
        honest = {"ekd.run_id": "honest", "ekd.test.accuracy": "0.9"}
        return [self._version("1", honest), self._version("2", {"ekd.run_id": "hostile"} | self.tags)]

    def get_registered_model(self, _):
        return SimpleNamespace(aliases={"[/x]": "2", "champion": "1"})

    def _version(self, number, tags):
        return SimpleNamespace(version=number, tags=tags, source="", creation_timestamp=0)


@pytest.mark.parametrize("tag", ["ekd.test.accuracy", "ekd.macs", "ekd.promotion", "ekd.run_id"])
@pytest.mark.parametrize("text", [*TEXTS, "a number", "nan", "1e400", "a\nb", "", "9" * 10_000])
def test_one_hostile_tag_hides_no_other_version(tag, text):
    hostile, honest = list_versions(Registry({tag: text}), "ekd-digits")
    assert (honest.run_id, honest.metrics) == ("honest", {"accuracy": 0.9})
    assert "\n" not in str(hostile)
    console = PlainConsole(width=100)
    with console.capture() as captured:
        console.print(str(hostile), soft_wrap=True)
    assert "\x1b" not in captured.get()


secret = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1).map(
    lambda text: f"S3cr{text}et"
)


@fuzzed
@given(secret, st.sampled_from(["http", "https", "postgresql+psycopg2", "mysql", "s3"]), st.booleans())
@example("S3cr/@:/et", "http", True)
def test_no_password_of_a_uri_is_shown_whatever_it_holds(password, scheme, quoted):
    uri = f"{scheme}://ann:{password}@host/db"
    shown = redacted(f"cannot reach '{uri}': refused" if quoted else uri)
    assert password not in shown
    assert "S3cr" not in shown
    assert "@host/db" in shown


plain = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="/+=%-_."), min_size=1)


@fuzzed
@given(
    plain,
    st.sampled_from(
        [
            "password",
            "passwd",
            "pwd",
            "secret",
            "token",
            "access_token",
            "api_key",
            "apikey",
            "api-key",
            "client_secret",
            "id_token",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "AWSAccessKeyId",
            "Signature",
            "sig",
            "auth",
        ]
    ),
    st.sampled_from("?&;#"),
)
def test_no_secret_parameter_is_shown(value, name, before):
    value = f"S3cr{value}"
    shown = redacted(f"https://host/path{before}{name}={value}&x=1")
    assert "S3cr" not in shown
    assert shown.endswith("&x=1")
    assert shown.startswith("https://host/path")


@pytest.mark.parametrize(
    "harmless",
    [
        "s3://bucket/team@site/runs",
        "/data/a@b",
        "models:/ekd-digits@champion",
        "http://mlflow:5000/#/experiments/1?workflowType=machine_learning",
        "sqlite:////data/mlflow.db",
        "data.max_image_pixels=25000000",
        "storage.keep_checkpoints=2",
        "--set key=value, monkey=5, RAY_AUTH_MODE=token",
        "sqlite:////home/ann@site/mlflow.db",
        "--set key=value",
        "models:/ekd-digits@champion.v2",
        "rayproject/ray:2.56.0@sha256:0123abcd",
        "registry.example.org:5000/team/image:1.0@sha256:12345678",
        "at 12:30 ann@example.org wrote",
        "file:///data/ann@site",
    ],
)
def test_what_is_no_secret_stays_as_it_is(harmless):
    assert redacted(harmless) == harmless


def test_several_secrets_in_one_word_are_all_left_out():
    text = "s3://bucket/x,http://ann:S3cret@host;Server=x;Password=S3cret&a=token=S3cret"
    assert "S3cret" not in redacted(text)
    assert redacted(text).startswith("s3://bucket/x,http://***@host;Server=x;Password=***")


LONG = ["a://", "s3://a/", "token", "a=", "token=", "x", "@://"]


@pytest.mark.parametrize("text", [word * 50_000 + end for word in LONG for end in ("", "@")], ids=range(14))
def test_long_text_is_redacted_in_a_moment(text):
    began = time.process_time()
    redacted(text)
    visible(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("key", ["tracking.uri", "storage.uri", "storage.endpoint_url", "data.root"])
@pytest.mark.parametrize(
    "uri", ["http://ann:S3cr/et@host", "s3://AKIA:S3cr/et@bucket/x", "https://h/?api_key=S3cr"]
)
def test_credentials_in_an_experiment_are_refused_and_not_repeated(key, uri, capsys):
    assert main(["plan", "digits", "--set", f"{key}={uri}"]) == 2
    err = capsys.readouterr().err
    assert "credentials do not belong in an experiment" in err
    assert "S3cr" not in err


@pytest.mark.parametrize("uri", ["s3://AKIA:S3cr/et@bucket/x", "ftp://ann:S3cret@host/x"])
def test_credentials_in_an_option_are_not_repeated(uri, capsys):
    assert main(["status", "--storage", uri]) == 2
    assert "S3cr" not in capsys.readouterr().err


def test_results_are_printed_by_that_console():
    assert isinstance(results_console(), PlainConsole)


def test_an_error_is_one_line_in_which_nothing_is_obeyed(capsys):
    assert main(["run", f"nobody{TITLE}\nnext"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not any(character in err for character in "\x1b\x07")


HOSTILE_MARKDOWN = "![x](http://evil/x.png) <img src=x> `code` # title\n## more | a | https://evil [a](b)"


def test_a_model_card_shows_what_a_user_wrote_and_makes_nothing_of_it():
    shown = escaped(HOSTILE_MARKDOWN)
    assert "\n" not in shown
    assert "://" not in shown
    for mark in "`*_[]<>!|~&#":
        assert shown.count(mark) == shown.count(f"\\{mark}")
    unescaped = re.sub(r"\\(.)", r"\1", shown)
    assert unescaped == " ".join(HOSTILE_MARKDOWN.split())


def test_a_hostile_owner_of_a_run_is_waited_for_in_plain_text(tmp_path, capsys, monkeypatch):
    storage = open_storage(str(tmp_path))
    storage.write("hostile/manifest.json", b"{}")
    owner = this_process().model_copy(update={"host": TITLE, "boot": "of another machine"})
    storage.write(f"hostile/{LEASE}", owner.model_dump_json().encode())
    monkeypatch.setattr(cleanup, "Lease", partial(Lease, lease_s=0.2, renew_s=0.1))
    assert main(["clean", "hostile", "--everything", "--storage", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert f"on {visible(TITLE)} held this run; waiting" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1", "1" + 400 * "0"])
@pytest.mark.parametrize("key", ["seconds", "params", "macs"])
def test_a_number_that_no_run_has_is_one_line(tmp_path, capsys, key, value):
    """Also where it is the newest run, of which `ekd status` says more."""
    shutil.copytree(GOLDEN / "finished", tmp_path / "finished")
    file = tmp_path / "finished" / "manifest.json"
    file.write_text(re.sub(rf'"{key}": [0-9.e+-]+', f'"{key}": {value}', file.read_text()))
    assert f'"{key}": {value}' in file.read_text()
    assert main(["status", "--storage", str(tmp_path)]) == 0
    assert main(["report", "finished", "--storage", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not the manifest of a run" in err


@pytest.mark.parametrize(
    "outputs", [{"predictors": {}}, {"predictors": {"averaged": {"params": 1, "macs": 0}}}]
)
def test_an_evaluation_without_its_result_is_one_line(tmp_path, capsys, outputs):
    shutil.copytree(GOLDEN / "finished", tmp_path / "finished")
    file = tmp_path / "finished" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["stages"]["evaluate"]["outputs"] |= outputs
    file.write_text(json.dumps(manifest))
    assert main(["report", "finished", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"token": "S3CRET99"}',
        "{'api_key': 'S3CRET99', 'a': 1}",
        'token="S3CRET99"',
        "https://h/x?to%6ben=S3CRET99",
        "AccountKey=S3CRET99;EndpointSuffix=x",
        "Authorization: Bearer S3CRET99",
        "Authorization: Basic S3CRET99",
        "https://maps.example.org/x?key=S3CRET99&a=1",
        "https://x.example.org/y?code=S3CRET99",
        "https://x.example.org/y?private_key=S3CRET99",
        "https://x.example.org/y?sas=S3CRET99",
        "https://x.example.org/y?subscription-key=S3CRET99",
        "mssql+pyodbc:///?odbc_connect=Driver%3Dx%3BPWD%3DS3CRET99",
        "x-api-key: S3CRET99",
        "authorization: token S3CRET99",
        "bearer S3CRET99",
        "HTTP_PROXY=ann:S3CRET99@proxy.example.org:3128",
        "cannot reach 'ann:S3CRET99@proxy:3128'",
        "proxy ann:a@S3CRET99/x@localhost refused",
    ],
)
def test_credentials_in_what_a_server_says_are_left_out(text):
    assert "S3CRET99" not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize("text", ["a basic architecture", 'the token: "as it is"', "tokens: 12", "a=b"])
def test_words_about_credentials_stay(text):
    assert redacted(text) == text
