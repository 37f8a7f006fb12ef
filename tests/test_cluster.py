"""Conversions on a Dask cluster of processes of this machine, some of which are killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults.kills import write_model
from tests.faults.model import digests

pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    os.environ["PYTHONPATH"] = str(ROOT)
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    write_model(folder / "one", 1)
    write_model(folder / "two", 2)
    return folder


def requant(*words, check=True):
    command = [sys.executable, "-m", "requant", *map(str, words), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr, done.stderr
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


WORK = {
    "GGUF": ("convert", "{home}/one", "{out}.gguf", "--to", "Q4_K_M"),
    "shards, held tensors": ("convert", "{home}/one", "{out}", "--to", "NF4", "--max-shard-size", "20M"),
    "reductions": (
        *("merge", "{home}/one", "{home}/two", "--method", "slerp", "--t", "0.3"),
        *("--base", "{home}/one", "-o", "{out}", "--to", "BF16"),
    ),
}


@pytest.mark.parametrize("words", WORK.values(), ids=WORK)
def test_the_bytes_are_those_of_one_machine(cluster, home, tmp_path, words):
    for name, more in (("alone", ()), ("together", ("--dask", cluster.scheduler_address))):
        (tmp_path / name).mkdir()
        document = requant(*(word.format(home=home, out=tmp_path / name / "out") for word in words), *more)
    assert document["cluster"]["workers"] == 3 and document["cluster"]["tasks"] > 20
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")
    assert document["bytes_read"] > 1e8


def test_a_lost_worker(cluster, home, tmp_path):
    from distributed import Client

    requant("convert", home / "one", tmp_path / "alone.gguf", "--to", "Q5_K_M")
    killed = []

    def kill():
        while not (tmp_path / "together.gguf.partial").exists():
            time.sleep(0.01)
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            limit = time.monotonic() + 60
            while not any(client.processing().values()) and time.monotonic() < limit:
                time.sleep(0.005)
            busy = next((worker for worker, tasks in client.processing().items() if tasks), None)
            if busy is not None:
                pid = client.run(os.getpid, workers=[busy])[busy]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    requant("convert", home / "one", tmp_path / "together.gguf", "--to", "Q5_K_M", "--dask", cluster.scheduler_address)
    killer.join()
    assert killed
    assert (tmp_path / "together.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()


def test_errors_of_workers_are_told_as_of_one_machine(cluster, home, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "bad").mkdir()
    tensors = load_file(home / "one" / "model.safetensors")
    tensors["model.layers.3.mlp.up_proj.weight"][5, 7] = torch.nan
    save_file(tensors, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bad" / name).write_bytes((home / "one" / name).read_bytes())
    words = ("convert", tmp_path / "bad", tmp_path / "o.gguf", "--to", "Q8_0", "--dask", cluster.scheduler_address)
    told = requant(*words, check=False)["error"]
    assert told["kind"] == "FormatError" and "up_proj.weight': value [5, 7]" in told["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_no_cluster(home, tmp_path):
    told = requant("convert", home / "one", tmp_path / "o.gguf", "--dask", "tcp://127.0.0.1:1", check=False)["error"]
    assert "no Dask cluster there" in told["message"]
