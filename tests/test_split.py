"""`requant split` and `join` beside llama-gguf-split of the llama-cpp-python 0.3.36 sdist: digests of its files."""

import hashlib
import json

import pytest

from requant.formats import open as open_model
from tests import models
from tests.command import run
from tests.tiny_folder import write_tiny_folder

#: options, the same of llama-gguf-split being --split-max-tensors and --split-max-size -> SHA-256 of each file, begun.
FILES = {
    "--max-tensors 100": ["5d7783b09193c99f", "c0a0cd044665ed25", "5d705b914de8d237"],
    "--max-size 40M": ["3f5ab9ffa02a0f8e", "248ceca2b27c2b7e", "4b40b6cdaa9b35a9"],
    "--max-size 40M --no-tensor-first-split": [
        *("39bb81fc7ff86601", "2ced0e08b1c759ab", "1db1151728cd97cd", "2fc4af884ddf4e2a"),
    ],
    "--max-size 4G": ["ac75e8aa26ce9a53"],
}


@pytest.mark.parametrize("options", FILES)
def test_the_files_of_llama_gguf_split(tmp_path, options):
    assert run("split", models.smollm2(), tmp_path / "m", *options.split()).exit_code == 0
    files = sorted(tmp_path.iterdir())
    count = len(FILES[options])
    assert [file.name for file in files] == [f"m-{n + 1:05d}-of-{count:05d}.gguf" for n in range(count)]
    assert [_digest(file)[:16] for file in files] == FILES[options]
    assert run("join", files[-1], tmp_path / "back.gguf").exit_code == 0
    assert _digest(tmp_path / "back.gguf") == _digest(models.smollm2())


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_tiny_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_cut_and_joined(folder):
    assert run("split", "tiny", "parts", "--max-tensors", 5).exit_code == 0
    shards = sorted((folder / "parts").glob("*.safetensors"))
    index = json.loads((folder / "parts" / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert {*index["weight_map"].values()} == {shard.name for shard in shards}
    assert run("join", "parts", "back").exit_code == 0
    assert [file.name for file in (folder / "back").glob("*.safetensors*")] == ["model.safetensors"]
    before, after = open_model(folder / "tiny"), open_model(folder / "back")
    assert before.config == after.config
    assert _values(before) == _values(after)


def _values(model):
    from requant.sources import read

    return {tensor.name: read(tensor.sources["data"]).tobytes() for tensor in model.tensors}


def test_what_is_not_done(folder):
    run("convert", "tiny", "tiny.gguf", "--to", "Q8_0")
    for words, said in [
        (("split", "tiny", "parts", "--no-tensor-first-split"), "is of GGUF files"),
        (("split", "tiny", "parts.safetensors"), "lie in a folder"),
        (("split", "tiny.gguf", "parts", "--max-size", "4X"), "--max-size"),
        (("join", "tiny", "out.gguf"), "stays one"),
        (("join", "tiny.gguf", "out"), "stays one"),
        (("join", "tiny.gguf", "tiny.gguf"), "exists"),
    ]:
        told = run(*words)
        assert told.exit_code in (2, 4)
        assert said in told.stderr, told.stderr
    assert not (folder / "parts").exists()


def test_parts_that_exist_are_kept(folder):
    run("convert", "tiny", "tiny.gguf", "--to", "Q8_0")
    assert run("split", "tiny.gguf", "parts", "--max-tensors", 10).exit_code == 0
    first = next(iter(sorted(folder.glob("parts-*"))))
    assert run("split", "tiny.gguf", "parts", "--max-tensors", 10).exit_code == 4
    first.unlink()
    missing = run("join", next(iter(folder.glob("parts-*"))), "out.gguf")
    assert (missing.exit_code, "this file is missing" in missing.stderr) == (2, True)
