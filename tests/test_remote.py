"""Models on servers that cut, stall, throttle, redirect, change files, know no ranges, or answer with a page."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from requant import ranges
from requant.errors import FormatError, PlanError
from requant.ranges import Http, RemoteFile
from requant.read_ahead import AHEAD, BLOCK, KEPT, ReadAhead
from tests.faults.kills import write_model
from tests.remote_server import STALL, serving
from tests.tiny_folder import write_tiny_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as files:
        yield files


@pytest.fixture
def model(served):
    """A folder of 1.8 MB and 12 MB that nothing reads; and environment in which commands are patient for a second."""
    folder = write_tiny_folder(served.folder / "model")
    path = folder / "model.safetensors"
    pad = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.arange(3 << 20, dtype=np.float32)}
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    save_torch({**load_torch(path), **{name: torch.from_numpy(array) for name, array in pad.items()}}, path)
    return served


def requant(*words, cwd=None, check=True, wait=True):
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    command = [sys.executable, "-m", "requant", *map(str, words)]
    if not wait:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert not check or done.returncode == 0, done.stderr
    return done


def remote(served, name="f.gguf", data=b"", **more):
    (served.folder / name).write_bytes(data)
    return RemoteFile(name, Http(f"{served.url}/{name}"), wait=lambda seconds: None, **more)


DATA = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("kind", ["cut", "redirect", "429", "500", "503"])
def test_what_passes_is_tried_again(served, kind):
    file = remote(served, data=DATA)
    served.faults[kind] = 3
    assert file.read(1000, 70_000) == DATA[1000:70_000]
    assert file.nbytes == len(DATA) and file.retried == (0 if kind == "redirect" else 3)
    served.faults[kind] = ranges.TRIES
    if kind != "redirect":
        with pytest.raises(PlanError, match=rf"f\.gguf: .*, {ranges.TRIES} times"):
            file.read(0, 10)


def test_a_server_that_stalls(served, monkeypatch):
    monkeypatch.setattr(ranges, "_PATIENCE", STALL / 4)
    file = remote(served, data=DATA)
    served.faults["stall"] = 1
    assert file.read(0, 10) == DATA[:10] and file.retried == 1


def test_pauses_double_and_heed_the_server(served):
    pauses = []
    file = remote(served, data=DATA)
    file.wait = pauses.append
    served.faults["503"] = 4
    file.read(0, 1)
    assert pauses == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("kind", "said"), [("page", "answers with a web page"), ("no ranges", "does not give parts of files")]
)
def test_what_does_not_pass_is_told_at_once(served, kind, said):
    file = remote(served, data=DATA)
    served.faults[kind] = 1
    with pytest.raises(PlanError, match=said):
        file.read(500, 600)
    with pytest.raises(PlanError, match="there is no such file"):
        RemoteFile("x", Http(f"{served.url}/x")).read(0, 1)


@pytest.mark.parametrize("change", ["tag", "length"])
def test_a_file_that_changes_is_named(served, change):
    file = remote(served, data=DATA)
    file.read(0, 100)
    if change == "tag":
        served.tag = "two"
    else:
        (served.folder / "f.gguf").write_bytes(DATA + b"more")
    with pytest.raises(FormatError, match=r"f\.gguf: the file on the server has changed"):
        file.read(100, 200)


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_what_is_read_ahead_is_right_and_bounded(served, order):
    data = np.random.default_rng(1).integers(0, 256, 5 * BLOCK + 12345).astype(np.uint8).tobytes()
    file = remote(served, data=data, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data))
    ahead = ReadAhead()
    step = 700_000
    starts = list(range(0, len(data), step))
    if order != "forward":
        starts = starts[::-1] if order == "backward" else list(np.random.default_rng(2).permutation(starts))
    for start in map(int, starts):
        out = bytearray(min(step, len(data) - start))
        ahead.read_into(file, start, memoryview(out))
        assert out == data[start : start + step]
        assert len(ahead._blocks) <= KEPT
    assert ahead.checked([file]) == 1
    ahead.close()
    assert file.fetched < 2 * len(data) if order == "random" else file.fetched == len(data)
    assert AHEAD < KEPT


def test_bytes_that_the_hub_does_not_know_are_refused(served):
    data = bytes(2 * BLOCK)
    file = remote(served, data=data, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data))
    served.faults["flip"] = 1
    ahead = ReadAhead()
    with pytest.raises(FormatError, match=r"f\.gguf: its bytes are not those that the Hub says"):
        ahead.read_into(file, 0, memoryview(bytearray(len(data))))
        ahead.checked([file])
    ahead.close()


def test_a_folder_is_converted_without_being_downloaded(model, tmp_path):
    url = f"{model.url}/model"
    requant("convert", model.folder / "model", tmp_path / "local.gguf", "--to", "Q8_0", "-q")
    model.sent = 0
    shown = requant("inspect", url, "--json")
    assert model.sent < 1 << 20 and "fetched of" in shown.stderr
    model.after = (model.requests + 3, lambda: model.faults.update({"cut": 2, "503": 2, "redirect": 3}))
    done = requant("convert", url, tmp_path / "far.gguf", "--to", "Q8_0", "--json")
    assert (tmp_path / "far.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()
    fetched = json.loads(done.stdout)["fetched"]
    assert fetched["files"] == 1 and fetched["files_checked"] == 0 and fetched["repeated_requests"] >= 1
    requant("convert", f"{model.url}/model", tmp_path / "plan.gguf", "--to", "Q8_0", "--dry-run")
    requant("convert", tmp_path / "local.gguf", model.folder / "m.gguf", "--to", "F16", "-q")
    requant("convert", f"{model.url}/m.gguf?token=a", tmp_path / "b.gguf", "--to", "Q4_0", "-q")
    requant("convert", model.folder / "m.gguf", tmp_path / "c.gguf", "--to", "Q4_0", "-q")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


@pytest.mark.slow
def test_a_conversion_goes_on_after_a_cut(served, tmp_path):
    write_model(served.folder / "large", 1)
    words = ("convert", f"{served.url}/large", tmp_path / "far.gguf", "--to", "Q8_0", "--threads", "1")
    requant("convert", served.folder / "large", tmp_path / "local.gguf", "--to", "Q8_0", "-q")
    served.after = (15, lambda: served.faults.update({"page": 10**6}))
    gone = requant(*words, "-q", "--resume", check=False)
    assert gone.returncode == 4 and "answers with a web page" in gone.stderr
    assert (tmp_path / "far.gguf.partial").exists()
    served.faults.clear()
    served.after, served.sent = None, 0
    document = json.loads(requant(*words, "--resume", "--json").stdout)
    nbytes = (served.folder / "large" / "model.safetensors").stat().st_size
    assert document["resumed_bytes"] > nbytes / 10 and served.sent < 0.9 * nbytes
    assert (tmp_path / "far.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()


@pytest.mark.slow
def test_a_file_that_changes_between_two_runs_is_refused(model, tmp_path):
    words = ("convert", f"{model.url}/model", tmp_path / "far.gguf", "--to", "F16", "-q")
    model.rate = 3e6
    process = requant(*words, "--resume", wait=False)
    limit = time.monotonic() + 60
    while not (tmp_path / "far.gguf.partial").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    model.rate, model.tag = None, "two"
    refused = requant(*words, "--resume", check=False)
    assert refused.returncode == 4
    assert "model.safetensors: it has changed since" in refused.stderr


@pytest.mark.parametrize(("name", "code"), [("model", 0), ("model/model.safetensors", 0), ("model/nothing.gguf", 4)])
def test_nothing_is_left_of_what_was_looked_at(model, tmp_path, monkeypatch, name, code):
    """Small files and headers stand in a temporary folder while a command runs, and it does not wait for Python's
    end."""
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.setenv("TMPDIR", str(away))
    done = requant("inspect", f"{model.url}/{name}", check=False)
    assert done.returncode == code, done.stderr
    assert list(away.iterdir()) == []


def test_addresses_that_cannot_be_read(served, tmp_path):
    for url, said in (
        (f"{served.url}/nothing", "there is no model.safetensors"),
        (f"{served.url}/m.gguf", "there is no such file"),
        ("ftp://host/m.gguf", "no address of a model"),
    ):
        refused = requant("inspect", url, check=False)
        assert refused.returncode == 4 and said in refused.stderr, refused.stderr
    local = requant("check", f"{served.url}/m.gguf", check=False)
    assert "this command reads files of this machine" in local.stderr


def test_an_object_store(model, tmp_path, monkeypatch):
    """obstore's own store of a folder stands for a bucket; what differs is the other side of its API."""
    obstore = pytest.importorskip("obstore")
    store = obstore.store.LocalStore(model.folder)
    monkeypatch.setattr(ranges, "store_of", lambda url: (store, url.removeprefix("s3://bucket/")))
    file = RemoteFile("m", ranges.Store.at("s3://bucket/model/model.safetensors"))
    whole = (model.folder / "model" / "model.safetensors").read_bytes()
    assert file.read(100, 5000) == whole[100:5000] and file.nbytes == len(whole)
    assert file.read(0, 1 << 30) == whole
    (model.folder / "model" / "model.safetensors").write_bytes(whole + b"1")
    with pytest.raises(FormatError, match="has changed"):
        file.read(0, 10)
    with pytest.raises(PlanError, match="no such file"):
        RemoteFile("m", ranges.Store.at("s3://bucket/none")).read(0, 1)
