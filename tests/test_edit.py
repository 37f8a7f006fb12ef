"""`requant edit` of GGUF files: what is changed is what was asked for, readers of others agree, and bytes stay."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from requant import extents, heads
from requant.cli.main import cli
from requant.errors import FormatError
from requant.formats.gguf import Gguf
from requant.formats.gguf.editing import ROOM_KEY, GgufModel
from requant.ir import Typed
from requant.sources import read
from requant.staging import Staging
from requant.verify.llama_cpp import LlamaCpp
from tests.command import run
from tests.tiny_gguf import write_tiny_llama


def edit(*words, code=0):
    """What it said; a traceback is never an answer."""
    told = CliRunner().invoke(cli, ["edit", *map(str, words)])
    assert isinstance(told.exception, SystemExit | None), told.exception
    assert told.exit_code == code, told.output
    return told.output


def metadata(path):
    """By gguf-py, without what is room."""
    fields = gguf.GGUFReader(path).fields
    hidden = (ROOM_KEY, "GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
    return {key: field.contents() for key, field in fields.items() if key not in hidden}


def weights(path):
    """By gguf-py."""
    return {tensor.name: bytes(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def roomy(tmp_path):
    """With room, which the first edit has made."""
    path = write_tiny_llama(tmp_path / "roomy.gguf")
    edit(path, "--reserve", "4K")
    return path


#: Words of a command -> the key that they set, and what gguf-py reads there.
SET = [
    (["--set", "general.name=A name"], "general.name", "A name"),
    (["--set", "llama.context_length=512"], "llama.context_length", 512),
    (["--set", "llama.rope.freq_base=1e6"], "llama.rope.freq_base", 1e6),
    (["--set", "llama.rope.freq_base=int:5"], "llama.rope.freq_base", 5.0),
    (["--set", "tokenizer.ggml.add_bos_token=false"], "tokenizer.ggml.add_bos_token", False),
    (["--set", "my.number=int:-7"], "my.number", -7),
    (["--set", "my.small=u8:7"], "my.small", 7),
    (["--set", 'my.list=[str]:["a","b"]'], "my.list", ["a", "b"]),
    (["--set", "my.at=str:@@x"], "my.at", "@x"),
    (["--set", "general.name=str:int:4"], "general.name", "int:4"),
    (["--eos", "<s>"], "tokenizer.ggml.eos_token_id", 1),
    (["--eos", "5"], "tokenizer.ggml.eos_token_id", 5),
    (["--pad", "<unk>"], "tokenizer.ggml.padding_token_id", 0),
    (["--rename", "llama.vocab_size=my.size"], "my.size", 320),
    (["--rope-scaling", "yarn:4"], "llama.context_length", 1024),
    (["--rope-scaling", "yarn:4"], "llama.rope.scaling.original_context_length", 256),
    (["--rope-scaling", "linear:2:128"], "llama.context_length", 256),
]


@pytest.mark.parametrize(("words", "key", "value"), SET)
@pytest.mark.parametrize("how", ["moved", "in place", "copied"])
def test_what_is_set_is_there_and_nothing_else_changed(words, key, value, how, request, tmp_path):
    path = request.getfixturevalue("roomy" if how == "in place" else "tiny")
    before, tensors = metadata(path), weights(path)
    out = tmp_path / "out.gguf" if how == "copied" else path
    said = json.loads(edit(path, *words, "--json", *(["-o", out] if how == "copied" else [])))
    assert said["way"] == "in_place" if how == "in place" else said["way"] in ("in_place", "copy")
    after = metadata(out)
    assert after[key] == value and type(after[key]) is type(value)
    changed = {change["key"] for change in said["changes"]}
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}
    assert weights(out) == tensors
    assert not list(tmp_path.glob("*.partial"))


def test_llama_cpp_loads_what_has_room_and_computes_the_same(roomy, tmp_path):
    plain = write_tiny_llama(tmp_path / "plain.gguf")
    edit(roomy, "--set", "general.name=x", "--template", Path(__file__).parents[1] / "LICENSE")
    tokens = [1, 5, 262, 270]
    with LlamaCpp(roomy, n_ctx=32) as ours, LlamaCpp(plain, n_ctx=32) as theirs:
        assert (ours.logits(tokens) == theirs.logits(tokens)).all()


REFUSED = [
    (["--set", "llama.context_length=many"], "is read as u32"),
    (["--set", "llama.context_length=str:5"], "is read as u32"),
    (["--set", "llama.context_length=u8:5"], "is read as u32"),
    (["--set", "llama.context_length=-1"], "is read as u32"),
    (["--set", "llama.rope.freq_base=nan"], "no number that f32 has"),
    (["--set", "other=5"], "no type is known for this key"),
    (["--set", "=5"], "should be KEY=VALUE"),
    (["--set", "general.name=a", "--set", "general.name=b"], "set twice"),
    (["--set", "general.alignment=64"], "general.alignment is not edited"),
    (["--set", "general.name=a", "--delete", "general.architecture"], "architecture is missing"),
    (["--set", "llama.vocab_size=320", "--delete", "llama.context_length"], "context_length is missing"),
    (["--set", "llama.context_length=512", "--delete", "llama.context_length"], "is deleted, and set besides"),
    (["--eos", "1", "--delete", "tokenizer.ggml.eos_token_id"], "is deleted, and set besides"),
    (["--eos", "none", "--set", "tokenizer.ggml.eos_token_id=1"], "is deleted, and set besides"),
    (["--set", "general.name=@nothing"], "there is no such file"),
    (["--set", "general.name=@/dev/null"], "no regular file"),
    (["--set", "llama.attention.head_count=8"], "blk.0.attn_k.weight has 32 rows"),
    (["--set", "llama.block_count=3"], "tensors of 2 layers"),
    (["--delete", "llama.context_lenght"], "there is no key"),
    (["--delete", "llama.context_length"], "context_length is missing"),
    (["--rename", "general.architecture=llama.context_length"], "there is a key"),
    (["--eos", "1000"], "the vocabulary has 320 tokens"),
    (["--eos", "nothing"], "no token is 'nothing'"),
    (["--mask", "none"], "there is no tokenizer.ggml.mask_token_id"),
    (["--rope-scaling", "yran:4"], "should be TYPE:FACTOR"),
    (["--rope-scaling", "yarn:0.5"], "should be TYPE:FACTOR"),
    (["--rope-scaling", "none"], "there is no llama.rope.scaling"),
    (["--rename-tensor", "nothing=x"], "there is no tensor"),
    (["--rename-tensor", "blk.0.attn_q.weight=" + "x" * 64], "llama.cpp reads 1 to 63 bytes"),
    (["--rename-tensor", "blk.0.attn_q.weight=blk.0.attn_k.weight"], "would be named 'blk.0.attn_k.weight'"),
    (["--rename-tensor", "blk.0.attn_q.weight=blk.0.q.weight"], "'blk.0.attn_q.weight' (layer 0) is missing"),
    (["--set-from", "nothing"], "there is no such file"),
    (["--keys", "general.*", "--eos", "3"], "goes with --set-from"),
    ([], "what shall be changed?"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(words, why, tiny):
    before = tiny.read_bytes()
    told = CliRunner().invoke(cli, ["edit", str(tiny), *words])
    assert told.exit_code in (2, 4) and why in told.output, told.output
    assert tiny.read_bytes() == before and list(tiny.parent.iterdir()) == [tiny]


def test_keys_out_of_files(tiny, tmp_path):
    (tmp_path / "keys.json").write_text('{"general.name": "x", "my.list": [1, 2], "llama.rope.freq_base": 5}')
    edit(tiny, "--set-from", tmp_path / "keys.json")
    assert metadata(tiny)["my.list"] == [1, 2] and metadata(tiny)["llama.rope.freq_base"] == 5.0
    other = write_tiny_llama(tmp_path / "other.gguf")
    edit(other, "--set-from", tiny, "--keys", "general.n*", "--keys", "my.*")
    assert metadata(other)["general.name"] == "x" and metadata(other)["my.list"] == [1, 2]
    edit(other, "--set-from", tiny, "--keys", "no.*", code=4)


def test_rope_scaling_is_taken_away_again(tiny):
    before = metadata(tiny)
    edit(tiny, "--rope-scaling", "yarn:4")
    assert metadata(tiny)["llama.rope.scaling.type"] == "yarn"
    edit(tiny, "--rope-scaling", "none")
    assert metadata(tiny) == before


def test_a_tokenizer_of_another_model(tmp_path):
    one = write_tiny_llama(tmp_path / "one.gguf")
    two = write_tiny_llama(tmp_path / "two.gguf")
    edit(two, "--eos", "7", "--set", "tokenizer.chat_template=abc")
    edit(one, "--tokenizer-from", two)
    assert metadata(one) == metadata(two)
    larger = write_tiny_llama(tmp_path / "larger.gguf", words=("more",))
    assert "has 321 tokens; token_embd.weight has 320 rows" in edit(one, "--tokenizer-from", larger, code=4)


def test_room_is_used_and_kept(tiny):
    edit(tiny, "--reserve", "1000")
    size = tiny.stat().st_size
    for n in range(5):
        said = json.loads(edit(tiny, "--set", f"my.key{n}=str:{'x' * 100}", "--json"))
        assert said["way"] == "in_place" and tiny.stat().st_size == size
    assert "nothing to change" in edit(tiny, "--set", f"my.key0={'x' * 100}")
    edit(tiny, *(word for n in range(5) for word in ("--delete", f"my.key{n}")))
    assert tiny.stat().st_size == size and GgufModel.of(tiny).heads[0].free >= 1000


def test_a_dry_run_tells_and_writes_nothing(tiny):
    before = tiny.read_bytes(), tiny.stat().st_mtime_ns
    said = edit(tiny, "--set", "general.name=A new name", "--dry-run")
    assert "A new name" in said and "a copy" in said and (tiny.read_bytes(), tiny.stat().st_mtime_ns) == before
    assert list(tiny.parent.iterdir()) == [tiny]


@pytest.fixture
def large(tmp_path):
    """With so much data that moving it is worth the trouble: one tensor more, sparse."""
    path = tmp_path / "large.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("large")
    writer.add_tensor_info("a", (1 << 20,), np.dtype("float32"), 4 << 20)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + -path.stat().st_size % 32)
    with path.open("ab") as file:
        for n in range(4):
            file.write(bytes([n + 1]) * (1 << 20))
    return path


@pytest.mark.skipif(not extents.can_insert(Path("/tmp")), reason="this file system cannot put blocks before a file")
def test_data_is_moved_by_the_file_system(large):
    before = weights(large)
    inode = large.stat().st_ino
    said = json.loads(edit(large, "--set", "general.name=" + "x" * 5000, "--json"))
    assert said["way"] == "insert" and large.stat().st_ino == inode
    assert weights(large) == before and metadata(large)["general.name"] == "x" * 5000


def test_a_file_that_somebody_has_mapped_is_not_moved(large):
    """Whoever runs the model would compute with other weights."""
    with large.open("rb") as file:
        old = file.read(1 << 21)
        said = json.loads(edit(large, "--set", "general.name=" + "x" * 5000, "--json"))
        file.seek(0)
        assert said["way"] == "copy" and file.read(1 << 21) == old


def test_without_any_help_of_the_file_system(large, monkeypatch):
    monkeypatch.setattr(extents, "insert", lambda *arguments: False)
    monkeypatch.setattr(extents, "clone", lambda *arguments: False)
    before = weights(large)
    assert json.loads(edit(large, "--set", "general.name=" + "x" * 5000, "--json"))["way"] == "copy"
    assert weights(large) == before


def test_what_promised_and_then_refused_is_copied(large, monkeypatch):
    monkeypatch.setattr(extents, "can_insert", lambda folder: True)
    monkeypatch.setattr(extents, "insert", lambda *arguments: False)
    before = weights(large)
    said = edit(large, "--set", "general.name=" + "x" * 5000)
    assert "a copy after all" in said and weights(large) == before
    assert list(large.parent.iterdir()) == [large]


def test_links_and_rights(tiny, tmp_path):
    (tmp_path / "link.gguf").symlink_to(tiny)
    assert "is a link to" in edit(tmp_path / "link.gguf", "--eos", "3", code=4)
    os.link(tiny, tmp_path / "other.gguf")
    assert "has other names (hard links), and would change under all" in edit(tiny, "--eos", "3", code=4)
    edit(tiny, "--eos", "3", "--force")
    assert metadata(tmp_path / "other.gguf")["tokenizer.ggml.eos_token_id"] == 3
    (tmp_path / "other.gguf").unlink()
    tiny.chmod(0o444)
    assert "read-only" in edit(tiny, "--eos", "4", code=4)
    edit(tiny, "--eos", "4", "-o", tmp_path / "out.gguf")
    assert metadata(tmp_path / "out.gguf")["tokenizer.ggml.eos_token_id"] == 4
    assert "exists" in edit(tiny, "--eos", "4", "-o", tmp_path / "out.gguf", code=4)


def test_one_at_a_time_and_nothing_that_changed_meanwhile(tiny):
    staging = Staging.claim(tiny.with_name("tiny.gguf.partial"))
    try:
        assert "another process is writing this" in edit(tiny, "--eos", "3", code=4)
    finally:
        staging.remove()
    model = GgufModel.of(tiny)
    head = model.changed({**model.metadata, "tokenizer.ggml.eos_token_id": Typed("u32", 3)}, {}, 0)[0]
    with tiny.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    before = tiny.read_bytes()
    for plan in (heads.planned([head]), heads.planned_copy([head], tiny.parent)):
        with pytest.raises(FormatError, match="has changed since it was opened"):
            heads.rewrite(plan)
        assert tiny.read_bytes() == before and list(tiny.parent.iterdir()) == [tiny]


def test_a_journal_of_another_time_is_not_acted_upon(tiny):
    """The file was written to after the edit was broken off: neither old nor new, and so nobody's to finish."""
    model = GgufModel.of(tiny)
    head = model.changed({**model.metadata, "tokenizer.ggml.eos_token_id": Typed("u32", 3)}, {}, 0)[0]
    staging = Staging.claim(tiny.with_name("tiny.gguf.partial"))
    descriptor = os.open(tiny, os.O_RDWR)
    heads._journal(heads.planned([head]), staging, [descriptor])
    os.pwrite(descriptor, b"\xff", 40)
    os.close(descriptor)
    staging.release()
    before = tiny.read_bytes()
    told = CliRunner().invoke(cli, ["inspect", str(tiny)])
    assert told.exit_code == 2 and "not what the journal of a broken edit says" in told.output
    assert tiny.read_bytes() == before and staging.journal.is_file()


def test_a_copy_leaves_the_file_alone_and_has_no_room_unless_asked(tiny, tmp_path):
    before = tiny.read_bytes()
    edit(tiny, "--set", "general.name=x", "-o", tmp_path / "a.gguf")
    edit(tiny, "--set", "general.name=x", "-o", tmp_path / "b.gguf", "--reserve", "64K")
    assert tiny.read_bytes() == before
    assert ROOM_KEY not in gguf.GGUFReader(tmp_path / "a.gguf").fields
    assert GgufModel.of(tmp_path / "b.gguf").heads[0].free >= 64_000
    assert metadata(tmp_path / "a.gguf") == metadata(tmp_path / "b.gguf")


def test_room_is_no_part_of_the_model(tiny, roomy, tmp_path):
    """Not for `diff`, and not for what is written of it; other readers see a key of blanks."""
    assert len(gguf.GGUFReader(roomy).fields[ROOM_KEY].contents()) > 3000
    assert run("diff", roomy, tiny).exit_code == 0
    assert run("join", roomy, tmp_path / "joined.gguf").exit_code == 0
    assert (tmp_path / "joined.gguf").read_bytes() == tiny.read_bytes()


def test_split_files(tiny, tmp_path):
    """Keys are in the first, names of tensors in theirs."""
    told = CliRunner().invoke(cli, ["split", str(tiny), str(tmp_path / "parts"), "--max-tensors", "8"])
    assert told.exit_code == 0, told.output
    first, second, third = sorted(tmp_path.glob("parts-*"))
    name = gguf.GGUFReader(third).tensors[0].name
    untouched = second.read_bytes()
    renaming = ["--rename-tensor", f"{name}=my.norm", "--rename-tensor", "output_norm.weight=my.other"]
    assert "is missing" in edit(second, *renaming, code=4)
    edit(third, "--set", "general.name=split", "--eos", "4")
    model = Gguf().read(first)
    assert model.metadata["general.name"] == Typed("str", "split") and second.read_bytes() == untouched
    assert {t.name: bytes(read(t.sources["data"])) for t in model.tensors} == weights(tiny)
    edit(first, "--eos", "5", "-o", tmp_path / "new.gguf")
    assert len(list(tmp_path.glob("new-*-of-00003.gguf"))) == 3
    assert Gguf().read(tmp_path / "new-00001-of-00003.gguf").metadata["tokenizer.ggml.eos_token_id"].value == 5
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_a_sample_of_kills_and_faults():
    """Every call that touches a file is the last, or fails; the whole campaign is `python -m tests.faults.editing`."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    command = [sys.executable, "-m", "tests.faults.editing", "--every", "61"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr


KEYS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){1,3}", fullmatch=True).filter(
    lambda key: not key.startswith(("general", "llama", "tokenizer", "split", "requant"))
)
VALUES = st.text(st.characters(codec="utf-8"), max_size=300)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=4, unique_by=lambda pair: pair[0]), st.integers(0, 600))
def test_any_texts_come_back(tmp_path_factory, pairs, room):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    if not path.exists():
        write_tiny_llama(path)
    before = weights(path)
    document = path.with_suffix(".json")
    document.write_text(json.dumps(dict(pairs)))
    edit(path, "--set-from", document, *(["--reserve", room] if room else []))
    after = Gguf().read(path).metadata
    assert all(after[key] == Typed("str", value) for key, value in pairs)
    assert weights(path) == before
    shutil.copy(path, path.with_name("kept.gguf"))
