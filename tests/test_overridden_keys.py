"""`--override-kv` writes each key in the type that llama.cpp reads it in, or refuses; and what requantize reshapes."""

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from requant.cli.main import cli
from requant.errors import PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.ir import Typed
from requant.losses import LossKind
from requant.operations import convert, requantize
from requant.operations.convert import plan_conversion
from requant.operations.requantize import plan_requantization
from requant.recipes import kind_of, override_kv
from requant.recipes.key_kinds import fitting
from tests.tiny_folder import write_tiny_folder

KIND = gguf.GGUFValueType
WRITTEN = {
    "u32": "add_uint32",
    "f32": "add_float32",
    "bool": "add_bool",
    "str": "add_string",
    "i32": "add_int32",
}


def test_kinds_are_those_that_gguf_writes():
    """The package's own writer is the second opinion on llama.cpp's reader."""
    source = Path(gguf.gguf_writer.__file__).read_text()
    method = {name: kind for kind, name in WRITTEN.items()}
    agreed = 0
    for name, groups in re.findall(r"self\.(add_\w+)\(\s*Keys\.([\w.]+)(?:\.format\(arch=self\.arch\))?,", source):
        key = gguf.Keys
        for part in groups.split("."):
            key = getattr(key, part)
        ours = kind_of(key.format(arch="llama"), "llama") if isinstance(key, str) else None
        if ours is not None and name in method:
            assert method[name] == ours, key
            agreed += 1
    assert agreed > 90


ONE = {
    "llama.block_count": (1, KIND.UINT32),
    "llama.context_length": (512, KIND.UINT32),
    "llama.embedding_length": (32, KIND.UINT32),
    "llama.rope.freq_base": (10000.0, KIND.FLOAT32),
    "tokenizer.ggml.add_bos_token": (True, KIND.BOOL),
    "tokenizer.ggml.eos_token_id": (2, KIND.UINT32),
    "general.name": ("x", KIND.STRING),
    "other.key": (7, KIND.UINT8),
    "other.wrong": (1.5, KIND.FLOAT64),
}


@pytest.fixture
def source(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    for key, (value, kind) in ONE.items():
        writer.add_key_value(key, value, kind)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_tensor("token_embd.weight", np.ones((8, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((32, 32), np.float32))
    writer.add_tensor("blk.0.ffn_down.weight", np.ones((32, 64), np.float32))
    writer.add_tensor("x_pad_token", np.ones((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Gguf().read(tmp_path / "in.gguf")


def overriding(source, path, how, *texts):
    pairs = tuple(override_kv(text) for text in texts)
    if how == "requantize":
        plan = plan_requantization(source, Gguf(), path, requantize.Request("Q8_0", key_values=pairs))
    else:
        recipe = "Q8_0" if how == "convert" else None
        plan = plan_conversion(source, Gguf(), path, convert.Request(recipe, key_values=pairs))
    execute(plan)
    return plan, Gguf().read(path).metadata


STORED = [
    ("llama.rope.freq_base=int:1000000", Typed("f32", 1e6)),
    ("llama.context_length=float:1024", Typed("u32", 1024)),
    ("tokenizer.ggml.add_bos_token=int:0", Typed("bool", False)),
    ("tokenizer.ggml.eot_token_id=float:3", Typed("u32", 3)),
    ("llama.rope.scaling.type=str:yarn", Typed("str", "yarn")),
    ("llama.attention.causal=int:0", Typed("bool", False)),
    ("general.sampling.top_k=int:40", Typed("i32", 40)),
    ("other.key=int:9", Typed("u8", 9)),
    ("other.new=int:9", Typed("u32", 9)),
]
REFUSED = [
    ("llama.context_length=str:many", "read as u32"),
    ("llama.context_length=float:10.5", "read as u32"),
    ("tokenizer.ggml.eos_token_id=bool:true", "read as u32"),
    ("tokenizer.ggml.add_bos_token=int:2", "read as bool"),
    ("llama.rope.freq_base=bool:true", "read as f32"),
    ("general.name=int:3", "read as str"),
    ("general.tags=str:a", "is a list"),
    ("tokenizer.ggml.tokens=str:a", "is a list"),
    ("llama.feed_forward_length=int:63", "the tensors say 64"),
    ("other.key=int:256", "read as u8"),
    ("llama.embedding_length=int:64", "the tensors say 32"),
    ("llama.vocab_size=int:9", "token_embd.weight has 8 rows"),
    ("llama.block_count=int:2", "tensors of 1 layers"),
    ("tokenizer.ggml.eos_token_id=int:8", "the embedding has 8 rows"),
]


@pytest.mark.parametrize("how", ["requantize", "convert", "copy"])
def test_stored_in_the_type_that_is_read(how, source, tmp_path):
    _, metadata = overriding(source, tmp_path / "out.gguf", how, *(text for text, _ in STORED))
    for text, typed in STORED:
        assert metadata[text.partition("=")[0]] == typed, text


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_refused_before_any_work(text, why, source, tmp_path):
    for how in ("requantize", "convert", "copy"):
        with pytest.raises(PlanError, match=why):
            overriding(source, tmp_path / "out.gguf", how, text)
    assert not (tmp_path / "out.gguf").exists()


@given(st.integers(0, (1 << 32) - 1))
def test_a_whole_number_may_be_written_as_a_float(number):
    assert fitting("llama.context_length", Typed("f32", float(number)), None, "llama") == Typed("u32", number)


def test_a_leading_dimension_of_one_is_told(source, tmp_path):
    plan, _ = overriding(source, tmp_path / "out.gguf", "requantize")
    (loss,) = plan.losses
    assert (loss.kind, loss.subject) == (LossKind.UNLOADED, "x_pad_token")
    assert "[1, 32] becomes [32]" in loss.detail
    plan, _ = overriding(source, tmp_path / "kept.gguf", "convert")
    assert not plan.losses
    assert next(t.shape for t in Gguf().read(tmp_path / "kept.gguf").tensors if t.name == "x_pad_token") == (1, 32)


def test_the_command_line_sets_metadata(tmp_path, monkeypatch):
    """Of `convert` and `requantize`: with the type or without, long texts, those of files; hits nothing is an error."""
    write_tiny_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    template = "{{ messages }}" * 40
    (tmp_path / "t.jinja").write_text(template)
    words = ["--override-kv", "tokenizer.chat_template=str:@t.jinja", "--override-kv", "llama.context_length=77"]
    for command in (
        ["convert", "tiny", "a.gguf", "--to", "Q8_0", *words],
        ["requantize", "a.gguf", "b.gguf", "Q4_0", *words],
    ):
        told = CliRunner().invoke(cli, command)
        assert told.exit_code == 0, told.stderr
        metadata = Gguf().read(tmp_path / next(word for word in command[2:] if word.endswith(".gguf"))).metadata
        assert metadata["tokenizer.chat_template"] == Typed("str", template)
        assert metadata["llama.context_length"] == Typed("u32", 77)
    for command, why in (
        (["convert", "tiny", "c.gguf", "--override-kv", "llama.block_count=int:1"], "there are tensors of"),
        (["convert", "tiny", "c.gguf", "--override-kv", "llama.block_count=str:x"], "is read as u32"),
        (["convert", "tiny", "c.gguf", "--override-kv", "a=str:@none"], "no such file"),
        (["convert", "tiny", "folder", "--override-kv", "a=str:b"], "sets metadata of a GGUF"),
        (["requantize", "a.gguf", "c.gguf", "Q4_0", "--prune-layers", "0,30"], "there is no layer 30"),
        (["requantize", "a.gguf", "c.gguf", "Q4_0", "--prune-layers", "30"], "there is no layer 30"),
    ):
        told = CliRunner().invoke(cli, command)
        assert told.exit_code in (2, 4) and why in told.stderr, (command, told.stderr)
        assert not (tmp_path / "c.gguf").exists()
