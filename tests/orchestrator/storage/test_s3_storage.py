"""S3 with real faults: servers that stop, stall, come back, lose replies or know other keys."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from s3_servers import KEY_ID, SECRET, Server

from orchestrator.storage import MissingKey, StorageError, open_storage, s3_client
from orchestrator.storage.s3 import MULTIPART_BYTES, S3Storage
from orchestrator.storage.vendor_settings import environment, ray_storage


def test_a_uri_names_bucket_and_prefix():
    assert open_storage("s3://bucket", "http://127.0.0.1:9000/") == S3Storage(
        "bucket", "", "http://127.0.0.1:9000"
    )
    storage = open_storage("s3://bucket/a/b/")
    assert storage == S3Storage("bucket", "a/b")
    assert storage.uri() == "s3://bucket/a/b"
    assert storage.child("run").uri("key") == "s3://bucket/a/b/run/key"
    assert storage.free_bytes() is None
    assert storage.local_folder is None


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://B", "s3:///key", "s3:/bucket", "s3://key:hidden@bucket", "s3://bucket/../a",
            "s3://bucket//a", "s3://bucket/a?endpoint_override=b"],
)  # fmt: skip
def test_an_invalid_uri_is_refused_without_repeating_what_may_be_a_secret(uri):
    with pytest.raises(ValueError, match="s3://bucket/prefix") as refused:
        open_storage(uri)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9000", "ftp://host", "http://", "http://key:hidden@host", "http://host/a"]
)
def test_an_invalid_endpoint_is_refused_without_repeating_what_may_be_a_secret(url):
    with pytest.raises(ValueError, match="endpoint_url") as refused:
        open_storage("s3://bucket", url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("key_id", "secret", "problem"),
    [
        ("AKIAUNKNOWNUNKNOWN", SECRET, "does not know the access key id; check AWS_ACCESS_KEY_ID"),
        (KEY_ID, "another", "the secret key does not fit the access key id; check AWS_SECRET_ACCESS_KEY"),
        (None, None, "no usable credentials .*; set AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.slow
def test_wrong_keys_are_refused_at_once(s3_on_disk, monkeypatch, key_id, secret, problem):
    for name, value in (("AWS_ACCESS_KEY_ID", key_id), ("AWS_SECRET_ACCESS_KEY", secret)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setattr(s3_client.time, "sleep", lambda seconds: pytest.fail("it is tried again"))
    with pytest.raises(StorageError, match=problem) as refused:
        s3_on_disk.write("key", b"")
    assert SECRET not in str(refused.value)


@pytest.mark.slow
def test_a_missing_bucket_is_named(moto):
    storage = open_storage("s3://absent/runs", moto.url)
    for attempt in (lambda: storage.write("key", b""), storage.list):
        with pytest.raises(
            StorageError, match=r"s3://absent/runs.*: the bucket does not exist; create it at http:"
        ):
            attempt()


@pytest.mark.slow
def test_a_server_that_is_away_costs_the_patience_and_no_more(rclone):
    storage = open_storage("s3://bucket", rclone.url, patience_s=2)
    rclone.stop()
    start = time.monotonic()
    with pytest.raises(StorageError, match=f"cannot connect to {rclone.url}; check that it runs"):
        storage.write("key", b"")
    assert 2 <= time.monotonic() - start < 100  # or what a busy machine makes of 2 s


@pytest.mark.slow
def test_a_server_that_hangs_costs_its_time_outs_and_no_more(rclone, monkeypatch):
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.3)
    storage = open_storage("s3://bucket", rclone.url, patience_s=1)
    rclone.pause()
    start = time.monotonic()
    with pytest.raises(StorageError, match="does not answer, or breaks off"):
        storage.read("key")
    assert time.monotonic() - start < 100


@pytest.mark.slow
def test_what_is_no_s3_server_is_recognised(tmp_path):
    server = Server(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "PORT"]
    )
    try:
        with pytest.raises(StorageError, match=r"with HTTP 501 .*; check that storage.endpoint_url is"):
            open_storage("s3://bucket", server.url, patience_s=0).write("key", b"")
        with pytest.raises(StorageError, match=r"no TLS connection to https.*; check http/https"):
            open_storage("s3://bucket", server.url.replace("http", "https"), patience_s=30).write("key", b"")
    finally:
        server.stop()


@pytest.mark.slow
def test_an_upload_survives_a_server_that_stops_in_its_middle_and_comes_back(rclone, caplog):
    storage = open_storage("s3://bucket", rclone.url, patience_s=300)
    content = os.urandom(6 * MULTIPART_BYTES)
    in_the_middle, broken = threading.Event(), threading.Event()

    def wait_for_the_fault(**_):
        in_the_middle.set()
        assert broken.wait(300)

    events = s3_client.client(rclone.url).meta.events
    events.register("before-call.s3.UploadPart", wait_for_the_fault)
    upload = threading.Thread(target=storage.write, args=("checkpoint", content))
    upload.start()
    assert in_the_middle.wait(300)
    rclone.pause()
    broken.set()
    rclone.stop()
    while "trying again for" not in caplog.text:
        assert upload.is_alive()
        time.sleep(0.05)
    rclone.start()
    upload.join(300)
    assert storage.read("checkpoint") == content


@pytest.mark.slow
def test_keys_rotated_in_the_shared_file_are_picked_up_in_mid_run(rclone, tmp_path, monkeypatch):
    def write_shared_file(secret):
        text = f"[default]\naws_access_key_id={KEY_ID}\naws_secret_access_key={secret}\n"
        (tmp_path / "credentials").write_text(text)

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write_shared_file(SECRET)
    storage = open_storage("s3://bucket", rclone.url, patience_s=5)
    storage.write("key", b"1")
    rclone.stop()
    rclone.command = [word.replace(SECRET, "rotated") for word in rclone.command]
    rclone.start()
    write_shared_file("rotated")
    storage.write("key", b"2")
    assert storage.read("key") == b"2"


@pytest.fixture
def loses_first_reply_to_put(moto):
    """Address of a proxy to moto that passes the first PUT on, and drops the connection for a reply."""
    listener = socket.create_server(("127.0.0.1", 0))
    lost = []

    def serve():
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near, socket.create_connection(("127.0.0.1", moto.port)) as far:
                request = near.recv(65536)
                if request.startswith(b"PUT") and b"100-continue" in request.lower():
                    near.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request += near.recv(65536)
                far.sendall(request)
                far.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: far.recv(65536), b""))
                if b" 100 " in answer[:20]:
                    answer = answer.partition(b"\r\n\r\n")[2]
                if request.startswith(b"PUT") and not lost:
                    lost.append(request)
                else:
                    near.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
    listener.close()


@pytest.mark.slow
def test_a_conditional_write_whose_reply_was_lost_is_known_to_be_won(loses_first_reply_to_put):
    url, lost = loses_first_reply_to_put
    storage = open_storage("s3://bucket/lost-reply", url, patience_s=5)
    version = storage.write_if("owner", b"me", match=None)
    assert len(lost) == 1
    assert storage.read_versioned("owner") == (b"me", version)


@pytest.mark.slow
def test_objects_that_are_no_keys_are_left_alone(s3):
    client = s3_client.client(s3.endpoint_url)
    for name in ("folder/", "folder/.hidden", "a//b"):
        client.put_object(Bucket=s3.bucket, Key=f"{s3.prefix}/{name}", Body=b"")
    s3.write("folder/key", b"")
    assert s3.list() == s3.list("folder") == ["folder/key"]


@pytest.mark.slow
def test_parts_of_an_upload_that_never_ended_are_deleted_with_their_folder(s3):
    client = s3_client.client(s3.endpoint_url)
    client.create_multipart_upload(Bucket=s3.bucket, Key=f"{s3.prefix}/run/checkpoint")
    s3.delete_prefix("run")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=s3.bucket, Prefix=s3.prefix)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["s3", "s3_on_disk"])
def test_pyarrow_is_given_the_same_place(server, request, monkeypatch):
    storage = request.getfixturevalue(server)
    for name, value in environment(storage.endpoint_url).items():
        monkeypatch.setenv(name, value)
    path, filesystem = ray_storage(storage)
    with filesystem.open_output_stream(f"{path}/from-pyarrow") as stream:
        stream.write(b"1")
    storage.write("from-us", b"2")
    assert storage.read("from-pyarrow") == b"1"
    with filesystem.open_input_stream(f"{path}/from-us") as stream:
        assert stream.read() == b"2"


def test_ray_needs_no_filesystem_for_a_folder(tmp_path):
    assert ray_storage(open_storage(str(tmp_path))) == (str(tmp_path), None)


@pytest.mark.attack
def test_ray_is_led_nowhere_by_a_link_in_the_place_of_its_folder(tmp_path):
    (outside := tmp_path / "outside").mkdir()
    (run := tmp_path / "run").mkdir()
    (run / "ray").symlink_to(outside)
    ray_storage(open_storage(str(run)))
    assert not (run / "ray").is_symlink()
    assert (run / "ray").is_dir()
    assert outside.is_dir()


MLFLOW = """
import sys
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
get_artifact_repository(sys.argv[1]).log_artifact(sys.argv[2])
"""


@pytest.mark.slow
def test_mlflow_is_given_the_same_place(s3, tmp_path):
    (tmp_path / "artifact").write_bytes(b"1")
    command = [sys.executable, "-c", MLFLOW, s3.uri(), str(tmp_path / "artifact")]
    subprocess.run(command, env=os.environ | environment(s3.endpoint_url), check=True)
    assert s3.read("artifact") == b"1"
    with pytest.raises(MissingKey):
        s3.read("other")
