"""Models in buckets, by the protocol of S3: moto answers as Amazon's servers do."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from requant.errors import FormatError
from requant.ranges import RemoteFile, Store, store_of
from tests.test_remote import requant
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow


def put(key, data):
    import obstore

    store, _ = store_of("s3://bucket")
    obstore.put(store, key, data)


@pytest.fixture(scope="module")
def server():
    """The address of a server with a bucket."""
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-W", "ignore", "-c", f"from moto.server import main; main(['-p', '{port}'])"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    create = urllib.request.Request(f"{address}/bucket", method="PUT")
                    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(create, timeout=10).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None
                    time.sleep(0.2)
            yield address
        finally:
            process.kill()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """A folder and a GGUF, here and as s3://bucket/models."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    folder = write_tiny_folder(tmp_path / "tiny")
    requant("convert", folder, tmp_path / "tiny.gguf", "--to", "Q8_0", "-q")
    for path in [*folder.iterdir(), tmp_path / "tiny.gguf"]:
        put(f"models/{path.relative_to(tmp_path)}", path.read_bytes())


def test_it_is_converted_as_the_same_files_here_are(bucket, tmp_path):
    requant("convert", "s3://bucket/models/tiny", tmp_path / "from-s3.gguf", "--to", "Q8_0", "-q")
    assert (tmp_path / "from-s3.gguf").read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    for source, name in (("s3://bucket/models/tiny.gguf", "one"), (tmp_path / "tiny.gguf", "two")):
        requant("convert", source, tmp_path / name, "--to", "BF16", "-q")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_headers_are_all_that_inspect_fetches(bucket, tmp_path):
    places = ("s3://bucket/models/tiny", tmp_path / "tiny")
    said = [json.loads(requant("inspect", place, "--json").stdout) for place in places]
    assert said[0]["tensors"] == said[1]["tensors"]
    assert said[0]["path"] == places[0]
    told = requant("inspect", places[0])
    assert told.stdout.startswith(f"{places[0]}  (safetensors")
    assert "headers of 1 files" in told.stderr and "fetched of" in told.stderr


def test_an_object_that_changes_meanwhile_is_named(bucket, tmp_path):
    file = RemoteFile("model.safetensors", Store.at("s3://bucket/models/tiny/model.safetensors"))
    whole = (tmp_path / "tiny/model.safetensors").read_bytes()
    assert file.read(100, 5000) == whole[100:5000] and file.nbytes == len(whole)
    assert file.read(len(whole) - 10, len(whole) + 10) == whole[-10:]
    put("models/tiny/model.safetensors", whole[:-1] + b"x")
    with pytest.raises(FormatError, match="has changed"):
        file.read(0, 10)


def test_what_is_not_there_is_told(bucket):
    for name, said in (
        ("s3://bucket/models/none", "neither safetensors nor GGUF files"),
        ("s3://bucket/models/none.gguf", "there is no such file"),
        ("s3://nobody/models/tiny.gguf", "no such"),
    ):
        refused = requant("inspect", name, check=False)
        assert refused.returncode == 4 and said in refused.stderr.lower() + refused.stderr, refused.stderr
