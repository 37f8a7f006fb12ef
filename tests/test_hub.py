"""Models named as on the Hugging Face Hub, against a Hub of our own that answers as the real one does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from requant.errors import PlanError
from requant.hub import HubModel, choose
from tests.tiny_models import make

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("org/model", HubModel("org/model")),
        ("hf://org/model", HubModel("org/model")),
        ("org/model@v1.0", HubModel("org/model", "v1.0")),
        ("hf.co/org/model:Q4_K_M", HubModel("org/model", type="Q4_K_M")),
        ("org/model/sub/m-Q4_K_M.gguf", HubModel("org/model", None, "sub/m-Q4_K_M.gguf")),
        ("https://huggingface.co/org/model", HubModel("org/model")),
        ("huggingface.co/org/model", HubModel("org/model")),
        ("http://hf.co/org/model", HubModel("org/model")),
        ("https://huggingface.co/org/model/tree/main/", HubModel("org/model", "main")),
        ("https://huggingface.co/org/m/resolve/main/m.gguf?download=true", HubModel("org/m", "main", "m.gguf")),
    ],
)
def test_names(text, model):
    assert HubModel.named(text) == model


@pytest.mark.parametrize(
    "text",
    ["model", "./org/model", "/org/model", "../org/model", "~/model", "https://x.org/a/b", "huggingface.co/org", ""],
)
def test_paths_are_no_names(text):
    assert HubModel.named(text) is None


SPLIT = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("file", "names", "wanted", "opened"),
    [
        (
            None,
            ["model.safetensors", "config.json", "pytorch_model.bin", "x.png"],
            "model.safetensors config.json",
            None,
        ),
        (None, ["consolidated.safetensors", "model.safetensors"], "model.safetensors", None),
        (None, ["consolidated.safetensors", "params.json"], "consolidated.safetensors params.json", None),
        (None, ["pytorch_model.bin", "training_args.bin", "merges.txt"], "pytorch_model.bin merges.txt", None),
        (
            None,
            [
                "model.safetensors",
                "1_Pooling/config.json",
                "2_Dense/model.safetensors",
                "onnx/config.json",
                "additional_chat_templates/rag.jinja",
            ],
            "model.safetensors 1_Pooling/config.json 2_Dense/model.safetensors additional_chat_templates/rag.jinja",
            None,
        ),
        (None, ["README.md", "m.gguf"], "m.gguf", "m.gguf"),
        (None, SPLIT, " ".join(SPLIT), SPLIT[0]),
        (SPLIT[1], [*SPLIT, "b-00001-of-00002.gguf"], " ".join(SPLIT), SPLIT[1]),
        ("m.gguf", ["m.gguf", "n.gguf"], "m.gguf", "m.gguf"),
    ],
)
def test_what_is_downloaded(file, names, wanted, opened):
    assert choose(HubModel("org/model", None, file), names) == (wanted.split(), opened)


MANY = ["m-Q4_K_M.gguf", "m-q4_k_s.gguf", "m-UD-Q4_K_XL.gguf", "mmproj-Q8_0.gguf", "Q8_0/m-00001-of-00001.gguf"]


@pytest.mark.parametrize(("asked", "opened"), [("q4_k_m", 0), ("Q4_K_S", 1), ("Q4_K_XL", 2), ("Q8_0", 4)])
def test_a_gguf_by_its_type(asked, opened):
    model = HubModel("org/model", type=asked)
    assert choose(model, [*MANY, "model.safetensors"]) == ([MANY[opened]], MANY[opened])
    with pytest.raises(PlanError, match="0 GGUF models are in it, and not one of type"):
        choose(model, ["model.safetensors"])


@pytest.mark.parametrize("asked", ["Q4_K", "Q5_K_M"])
def test_a_gguf_of_a_type_that_is_not_there(asked):
    with pytest.raises(PlanError, match=f"5 GGUF models are in it, and not one of type {asked}") as refused:
        choose(HubModel("org/model", type=asked), MANY)
    assert "org/model/m-Q4_K_M.gguf" in refused.value.hint


@pytest.mark.parametrize(
    ("file", "names", "hint"),
    [
        (None, ["a.gguf", "b.gguf"], "name one of org/model/a.gguf, org/model/b.gguf"),
        ("c.gguf", ["a.gguf"], "name one of org/model/a.gguf"),
        (None, ["model.onnx"], ""),
    ],
)
def test_what_cannot_be_meant(file, names, hint):
    with pytest.raises(PlanError) as refused:
        choose(HubModel("org/model", None, file), names)
    assert refused.value.hint == hint


@pytest.fixture
def hub(tmp_path):
    """A folder whose files the model `org/tiny` consists of, and an environment in which it does."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            served = {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}
            path = self.path.split("?")[0]
            if path.startswith("/api/models/org/tiny"):
                listed = [{"rfilename": name} for name in served]
                tree = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": n} for n, p in served.items()]
                for entry in tree:
                    if entry["path"].endswith(".safetensors"):
                        sha256 = hashlib.sha256(served[entry["path"]].read_bytes()).hexdigest()
                        entry["lfs"] = {"oid": sha256, "size": entry["size"], "pointerSize": 134}
                self.reply(
                    json.dumps(tree if "/tree/" in path else {"id": "org/tiny", "sha": COMMIT, "siblings": listed})
                )
            elif path.startswith("/org/tiny/resolve/") and path.rpartition("/")[2] in served:
                self.send_file(served[path.rpartition("/")[2]].read_bytes())
            else:
                code = "EntryNotFound" if path.startswith("/org/tiny") else "RepoNotFound"
                self.reply(b"", 404, {"X-Error-Code": code, "X-Error-Message": code})

        def send_file(self, body):
            """All of it, or the range that is asked for; how much is noted."""
            asked = self.headers.get("Range")
            if asked is not None and not folder.joinpath(".no-ranges").exists():
                start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
                there = {"Content-Range": f"bytes {start}-{min(stop, len(body) - 1)}/{len(body)}"}
                body = body[start : stop + 1]
                self.reply(body, 206, there)
            else:
                self.reply(body)
            if self.command == "GET":
                server.sent.append((self.path.split("?")[0].rpartition("/")[2], len(body)))

        def reply(self, body, status=200, headers=()):
            body = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(self.path.split("?")[0].encode()).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.sent = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    environment = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    yield folder, environment, server
    server.shutdown()
    server.server_close()
    thread.join()


def requant(environment, *words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "requant", *map(str, words)], env=environment, capture_output=True, text=True, cwd=cwd
    )


def test_a_model_is_converted_from_the_hub_and_from_the_cache(hub, tmp_path):
    folder, environment, server = hub
    make("llama", folder)
    (folder / "weights.onnx").write_bytes(b"not asked for")
    fetched = requant(environment, "convert", "org/tiny", tmp_path / "a.gguf", "--to", "F16", "--no-vocab")
    assert fetched.returncode == 0, fetched.stderr
    assert "from the Hugging Face Hub" in fetched.stderr
    local = requant(environment, "convert", folder, tmp_path / "b.gguf", "--to", "F16", "--no-vocab")
    assert local.returncode == 0, local.stderr
    assert not list(tmp_path.rglob("snapshots/*/weights.onnx"))
    named = json.loads(requant(environment, "inspect", tmp_path / "a.gguf", "--json", "--metadata").stdout)
    assert named["metadata"]["general.name"] == "Tiny"
    server.shutdown()
    server.server_close()
    again = requant(environment, "convert", "org/tiny", tmp_path / "c.gguf", "--to", "F16", "--no-vocab")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_what_the_hub_does_not_have(hub, tmp_path):
    _, environment, server = hub
    unknown = requant(environment, "inspect", "org/other")
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert "neither a file or folder here nor a model on the Hub" in unknown.stderr
    server.shutdown()
    server.server_close()
    offline = requant(environment, "inspect", "org/tiny")
    assert (offline.returncode, offline.stdout) == (4, "")
    assert "the Hub cannot be reached" in offline.stderr
    missing = requant(environment, "inspect", "nosuch")
    assert missing.returncode == 2
    assert "there is no such file or folder" in missing.stderr


def test_the_current_folder(hub, tmp_path):
    folder, environment, _ = hub
    make("llama", folder)
    here = requant(environment, "convert", ".", tmp_path / "a.gguf", "--to", "F16", "--no-vocab", cwd=folder)
    assert here.returncode == 0, here.stderr
    named = json.loads(requant(environment, "inspect", tmp_path / "a.gguf", "--json", "--metadata").stdout)
    assert named["metadata"]["general.name"] == "Served"


def large(folder, nbytes=3 << 20):
    """A model whose weights are longer than what is fetched of a file at first."""
    make("llama", folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(nbytes // 4, np.float32)}, path)
    return path.stat().st_size


def test_of_a_model_that_is_looked_at_only_headers_are_fetched(hub, tmp_path):
    folder, environment, server = hub
    nbytes = large(folder)
    shown = requant(environment, "inspect", "org/tiny", "--json")
    assert shown.returncode == 0, shown.stderr
    fetched = sum(count for name, count in server.sent if name == "model.safetensors")
    assert 0 < fetched < 300_000 < nbytes
    assert "fetched of" in shown.stderr
    said, local = json.loads(shown.stdout), json.loads(requant(environment, "inspect", folder, "--json").stdout)
    assert said["path"] == "org/tiny"
    assert {**said, "path": ""} == {**local, "path": ""}
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))
    # in a cache that has the weights nothing is fetched again
    requant(environment, "convert", "org/tiny", tmp_path / "a.gguf", "--to", "F16", "--no-vocab")
    server.sent.clear()
    again = requant(environment, "inspect", "org/tiny", "--json")
    assert json.loads(again.stdout)["path"] == "org/tiny"
    assert not server.sent


def test_tensors_are_fetched_when_they_are_needed_and_no_copy_is_kept(hub, tmp_path):
    folder, environment, server = hub
    make("llama", folder)
    words = ("--to", "F16", "--no-vocab")
    requant(environment, "convert", folder, tmp_path / "local.gguf", *words)
    for name, options in (("hf://org/tiny", ()), ("org/tiny", ("--stream",))):
        server.sent.clear()
        done = requant(environment, "convert", name, tmp_path / "far.gguf", *words, "--force", "--json", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["fetched"]["files_checked"] == 1
        assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))
        # the header, then all of it once
        assert sum(count for name, count in server.sent if name == "model.safetensors") < 3e6
    local, far = (
        json.loads(requant(environment, "inspect", tmp_path / f"{name}.gguf", "--json", "--metadata").stdout)[
            "metadata"
        ]
        for name in ("local", "far")
    )
    assert {**local, "general.name": 0, "general.basename": 0} == {**far, "general.name": 0, "general.basename": 0}
    words = ("--method", "linear", "--weight", "1", "-o", tmp_path / "merged")
    merged = requant(environment, "merge", "hf://org/tiny", folder, *words)
    assert merged.returncode == 0, merged.stderr
    refused = requant(environment, "convert", folder, tmp_path / "x.gguf", "--stream")
    assert refused.returncode == 4 and "is here" in refused.stderr


def test_a_plan_fetches_what_it_asks_for_and_no_more(hub, tmp_path):
    """Whether a head that is stored beside the embedding it is tied to is a copy, only the weights can tell."""
    folder, environment, server = hub
    nbytes = large(folder)
    path, config = folder / "model.safetensors", folder / "config.json"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    words = (tmp_path / "a.gguf", "--to", "Q8_0", "--no-vocab", "--dry-run", "--json")
    planned = requant(environment, "convert", "org/tiny", *words)
    assert planned.returncode == 0, planned.stderr
    assert sum(count for name, count in server.sent if name == path.name) < nbytes / 4
    local = json.loads(requant(environment, "convert", folder, *words).stdout)
    unlike = {"losses": [], "peak_bytes": 0}  # which includes what is read ahead
    assert {**json.loads(planned.stdout), **unlike} == {**local, **unlike}
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path)
    refused = requant(environment, "convert", "org/tiny", *words)
    assert refused.returncode != 0
    assert "tied" in refused.stderr


def test_the_head_of_a_gguf_with_a_long_vocabulary(hub, tmp_path):
    folder, environment, server = hub
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    writer.add_token_list([f"token {n}" for n in range(60_000)])
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((64, 65536), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shown = requant(environment, "inspect", "org/tiny", "--json")
    assert shown.returncode == 0, shown.stderr
    assert sum(count for _, count in server.sent) < 5_000_000 < (folder / "m.gguf").stat().st_size
    assert json.loads(shown.stdout)["parameters"] == 64 * 65536


@pytest.mark.parametrize("broken", ["cut", "page", "whole"])
def test_a_server_that_does_not_give_what_is_asked_for(hub, broken):
    """A file that is cut, a page instead of a model, and a server that knows no ranges."""
    folder, environment, _ = hub
    large(folder)
    path = folder / "model.safetensors"
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif broken == "page":
        path.write_bytes(b"<!DOCTYPE html>" + b" " * 400_000)
    else:
        (folder / ".no-ranges").touch()
    shown = requant(environment, "inspect", "org/tiny")
    assert "Traceback" not in shown.stderr
    assert shown.returncode in ((2,) if broken != "whole" else (0, 4)), shown.stderr
    assert {"cut": "header", "page": "web page"}.get(broken, "") in shown.stderr
