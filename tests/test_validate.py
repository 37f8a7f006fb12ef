"""`requant validate`: every rule has a case that breaks it, and nothing is found where nothing is wrong."""

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import libgguf
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from requant.cli.main import cli
from requant.errors import Error
from requant.formats.gguf import Gguf
from requant.formats.gguf.values import pack_pair, pack_string
from requant.ir import Typed
from requant.operations.validate import validate
from requant.tokenizers.keys import MERGES, MODEL, PRE, TOKENS, TYPES
from requant.validation.findings import MOST, Report
from requant.validation.rules import RULES, Severity
from requant.validation.tokenizer import PRE_TOKENIZERS
from tests import models
from tests.command import run
from tests.gguf_files import from_hex, save
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

BROKEN = Path(__file__).parents[1] / "fixtures" / "broken"


def gguf_bytes(pairs=(), tensors=(), data=b"", alignment=32):
    """A file; tensors are (name, dimensions as in the file, ggml type, offset)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(pack_pair(key, typed) for key, typed in pairs)
    for name, dimensions, number, offset in tensors:
        head += pack_string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, number, offset)
    return head + bytes(-len(head) % alignment) + data


def broken(name):
    def make(folder):
        path = folder / f"{name}.gguf"
        path.write_bytes(from_hex(BROKEN / "gguf" / f"{name}.hex"))
        return path

    return make


def raw(*tensors, pairs=(), data=b""):
    def make(folder):
        (folder / "raw.gguf").write_bytes(gguf_bytes(pairs, tensors, data))
        return folder / "raw.gguf"

    return make


def tiny(folder, **options):
    return write_tiny_llama(folder / "tiny.gguf", **options)


def with_metadata(**changes):
    """A tiny model with other metadata; None takes a key away."""

    def make(folder):
        source = Gguf().read(tiny(folder))
        keys = {key: key.replace("__", ".") for key in changes}
        metadata = {key: typed for key, typed in source.metadata.items() if key not in keys.values()}
        metadata |= {keys[key]: typed for key, typed in changes.items() if typed is not None}
        return save(replace(source, metadata=metadata), folder / "changed.gguf")[0]

    return make


def with_tokens(change, **others):
    """A tiny model, its list of tokens changed."""

    def make(folder):
        source = Gguf().read(tiny(folder))
        metadata = {**source.metadata, TOKENS: Typed("[str]", change(list(source.metadata[TOKENS].value)))}
        return save(replace(source, metadata={**metadata, **others}), folder / "changed.gguf")[0]

    return make


def with_tensors(change):
    def make(folder):
        source = Gguf().read(tiny(folder))
        return save(replace(source, tensors=tuple(change(source.tensors))), folder / "changed.gguf")[0]

    return make


def two_files(*, numbers=(0, 1), total=2, names=("a", "b"), more=((), ())):
    """A model in two files, a tensor in each."""

    def make(folder):
        for index in range(2):
            counts = [("split.no", Typed("u16", numbers[index])), ("split.count", Typed("u16", 2))]
            pairs = [*counts, ("split.tensors.count", Typed("i32", total)), *more[index]]
            file = gguf_bytes(pairs, [(names[index], (8,), 0, 0)], bytes(32))
            (folder / f"split-0000{index + 1}-of-00002.gguf").write_bytes(file)
        return folder / "split-00001-of-00002.gguf"

    return make


def without_sibling(folder):
    path = two_files()(folder)
    path.with_name("split-00002-of-00002.gguf").unlink()
    return path


def misnamed(folder):
    path = two_files()(folder)
    return path.rename(folder / "other.gguf")


def folder_with(config=None, *, files=(), without=(), arrays=None):
    """A tiny folder; keys of its config changed, files written, taken away, arrays changed."""

    def make(folder):
        home = write_tiny_folder(folder / "tiny")
        if config:
            said = json.loads((home / "config.json").read_text()) | config
            (home / "config.json").write_text(json.dumps(said))
        for name, text in dict(files).items():
            (home / name).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
        for name in without:
            (home / name).unlink()
        if arrays:
            import torch
            from safetensors.torch import load_file, save_file

            found = arrays(load_file(home / "model.safetensors"))
            save_file({name: torch.as_tensor(array) for name, array in found.items()}, home / "model.safetensors")
        return home

    return make


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lone(header, data=b""):
    def make(folder):
        (folder / "lone.safetensors").write_bytes(safetensors_bytes(header, data))
        return folder / "lone.safetensors"

    return make


def tokenizer_with(**changes):
    def make(folder):
        home = write_tiny_folder(folder / "tiny")
        tokenizer = json.loads((home / "tokenizer.json").read_text())
        tokenizer["model"] |= changes
        (home / "tokenizer.json").write_text(json.dumps(tokenizer))
        return home

    return make


def with_added_token(folder):
    home = write_tiny_folder(folder / "tiny")
    tokenizer = json.loads((home / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 5000, "content": "<more>"})
    (home / "tokenizer.json").write_text(json.dumps(tokenizer))
    return home


def gptq(folder):
    """A layer whose config says GPTQ and whose arrays do not fit each other."""
    home = write_tiny_folder(folder / "tiny")
    layer = "model.layers.0.self_attn.q_proj"
    arrays = {f"{layer}.qweight": np.zeros((32, 256), np.int32), f"{layer}.scales": np.zeros((3, 256), np.float16)}
    arrays |= {f"{layer}.qzeros": np.zeros((3, 32), np.int32), f"{layer}.g_idx": np.full(256, 7, np.int32)}
    save_file(arrays, home / "model.safetensors")
    config = json.loads((home / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (home / "config.json").write_text(json.dumps(config))
    return home


def blocks_of(recipe, scale):
    """One tensor in blocks of the reference, with a row of normal values times `scale`."""

    def make(folder):
        kind = libgguf.GGMLQuantizationType[recipe]
        values = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
        values[2] *= np.float32(scale)
        data = libgguf.quantize_rows(values, kind).tobytes()
        return raw(("a", (256, 4), kind.value, 0), data=data + bytes(-len(data) % 32))(folder)

    return make


def gptq_without_a_scale(folder):
    """One scale of a layer is 0."""
    from safetensors.torch import load_file, save_file

    run("convert", write_tiny_folder(folder / "tiny"), folder / "gptq", "--to", "GPTQ", "-q")
    arrays = load_file(folder / "gptq/model.safetensors")
    scales = arrays["model.layers.0.self_attn.q_proj.scales"]
    scales[1, 5] = 0
    save_file(arrays, folder / "gptq/model.safetensors", {"format": "pt"})
    return folder / "gptq"


def shard_missing(folder):
    home = write_tiny_folder(folder / "tiny")
    (home / "model.safetensors").rename(home / "model-00001-of-00002.safetensors")
    return home


EMBEDDING = "model.embed_tokens.weight"
F32_AT = {"dtype": "F32", "shape": [2]}
SCALED = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
#: rule -> what breaks it.
CASES = {
    "readable": [broken("key-cut"), broken("version-1"), broken("zip"), lone(b"[]"), lone(b'{"a"')],
    "duplicate-key": [broken("key-twice"), lone(b'{"__metadata__": {"a": "1", "a": "2"}}')],
    "duplicate-tensor": [
        broken("tensor-twice"),
        lone(
            b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a": {"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            b"12",
        ),
    ],
    "tensor-type": [broken("ggml-type-4"), lone({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 1]}}, b"1")],
    "tensor-size": [broken("tensor-wraps-around"), lone({"a": {**F32_AT, "data_offsets": [0, 7]}}, bytes(7))],
    "overlap": [
        broken("tensors-overlap"),
        lone({"a": {**F32_AT, "data_offsets": [0, 8]}, "b": {**F32_AT, "data_offsets": [4, 12]}}, bytes(12)),
    ],
    "hole": [
        raw(("a", (8,), 0, 0), ("b", (8,), 0, 64), data=bytes(96)),
        lone({"a": {**F32_AT, "data_offsets": [4, 12]}}, bytes(12)),
    ],
    "truncated": [broken("data-missing"), lone({"a": {**F32_AT, "data_offsets": [0, 8]}}, bytes(4))],
    "empty-key": [broken("key-empty")],
    "alignment": [broken("alignment-24"), broken("alignment-u16")],
    "boolean": [broken("boolean-2"), broken("boolean-array-3")],
    "dimensions": [broken("tensor-5-dimensions")],
    "whole-blocks": [broken("row-not-whole-blocks")],
    "aligned-tensor": [broken("tensor-misaligned")],
    "name-length": [raw(("n" * 64, (8,), 0, 0), data=bytes(32))],
    "padding": [raw(("a", (1,), 0, 0), ("b", (1,), 0, 32), data=bytes(4) + b"x" * 28 + bytes(32))],
    "bytes-behind": [raw(("a", (8,), 0, 0), data=bytes(32 + 64))],
    "text": [
        raw(pairs=[("general.name", Typed("str", "caf\udce9"))]),
        raw(pairs=[("a\udcff", Typed("u8", 1))]),
        raw(pairs=[("list", Typed("[str]", ["a", "\udcff"]))]),
        raw(("\udcff", (8,), 0, 0), data=bytes(32)),
    ],
    "bytes-left-over": [lone({"a": {**F32_AT, "data_offsets": [0, 8]}}, bytes(9))],
    "split-name": [misnamed],
    "split-missing": [without_sibling],
    "split-number": [two_files(numbers=(0, 0))],
    "split-metadata": [two_files(more=([("k", Typed("u8", 1))], [("k", Typed("u8", 2))]))],
    "split-tensors": [two_files(total=3)],
    "split-duplicate": [two_files(names=("a", "a"))],
    "agreement": [
        with_metadata(tokenizer__ggml__scores=Typed("[f32]", [0.0])),
        with_metadata(tokenizer__ggml__eos_token_id=Typed("u32", 1 << 20)),
        with_metadata(llama__block_count=Typed("u32", 3)),
        with_metadata(llama__context_length=None),
        with_metadata(llama__rope__freq_base=Typed("str", "10000")),
    ],
    "file-type": [
        with_metadata(general__file_type=Typed("u32", 15)),
        with_metadata(general__file_type=Typed("u32", 1)),
        with_metadata(general__file_type=Typed("u32", 999)),
    ],
    "tokenizer-model": [
        with_metadata(tokenizer__ggml__model=Typed("str", "gtp2")),
        with_metadata(tokenizer__ggml__model=None),
    ],
    "tokens": [
        with_metadata(tokenizer__ggml__tokens=None),
        with_metadata(tokenizer__ggml__tokens=Typed("[u8]", [1, 2])),
        with_metadata(tokenizer__ggml__scores=Typed("[f64]", [0.0])),
        with_metadata(tokenizer__ggml__token_type=Typed("[u8]", [1])),
    ],
    "duplicate-token": [with_tokens(lambda tokens: [*tokens[:-1], tokens[5]])],
    "empty-token": [with_tokens(lambda tokens: [*tokens[:-1], ""])],
    "token-type": [with_tokens(list, **{TYPES: Typed("[i32]", [0] * 320)})],
    "merges": [
        with_metadata(tokenizer__ggml__model=Typed("str", "gpt2")),
        with_tokens(list, **{MODEL: Typed("str", "gpt2"), MERGES: Typed("[u8]", [1])}),
    ],
    "merge-pairs": [
        with_tokens(list, **{MODEL: Typed("str", "gpt2"), MERGES: Typed("[str]", ["a nowhere"])}),
        with_tokens(list, **{MODEL: Typed("str", "gpt2"), MERGES: Typed("[str]", ["ab"])}),
    ],
    "pre-tokenizer": [
        with_tokens(list, **{MODEL: Typed("str", "gpt2"), MERGES: Typed("[str]", []), PRE: Typed("str", "qwen22")})
    ],
    "pre-tokenizer-missing": [with_metadata(tokenizer__ggml__model=Typed("str", "gpt2"), tokenizer__ggml__pre=None)],
    "chat-template": [
        with_metadata(tokenizer__chat_template=Typed("str", "{% for m in messages %}")),
        with_metadata(tokenizer__chat_template__tool_use=Typed("str", "{{")),
        folder_with(files={"chat_template.jinja": b"{% if %}"}),
        folder_with(files={"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "{{ a"}]}}),
    ],
    "family": [
        with_metadata(llama__attention__head_count=None),
        folder_with({"hidden_size": None}),
        folder_with({"hidden_act": "sine"}),
    ],
    "missing-tensor": [
        with_tensors(lambda tensors: [t for t in tensors if "ffn_up" not in t.name]),
        folder_with(arrays=lambda arrays: {k: v for k, v in arrays.items() if "up_proj" not in k}),
    ],
    "tensor-shape": [
        with_metadata(llama__feed_forward_length=Typed("u32", 128)),
        folder_with({"intermediate_size": 100}),
    ],
    "unknown-tensor": [
        with_tensors(lambda tensors: [*tensors, replace(tensors[0], name="blk.0.attn_more.weight")]),
        folder_with(arrays=lambda arrays: {**arrays, "model.more": arrays["model.norm.weight"].clone()}),
    ],
    "config": [folder_with(without=["config.json"]), folder_with(files={"config.json": b"{"})],
    "index": [
        folder_with(files={"model.safetensors.index.json": {"weight_map": {"gone": "model.safetensors"}}}),
        folder_with(files={"model.safetensors.index.json": {"weight_map": {EMBEDDING: "model.safetensors"}}}),
    ],
    "shards": [shard_missing],
    "quantization": [gptq],
    "suspect": [
        folder_with(
            files={"adapter_model.safetensors": safetensors_bytes({"a": {**F32_AT, "data_offsets": [0, 8]}}, bytes(8))}
        )
    ],
    "tokenizer": [tokenizer_with(merges=["no where"]), tokenizer_with(vocab={"a": 0, "b": 0})],
    "token-rows": [with_added_token],
    "special-ids": [
        folder_with({"eos_token_id": 100_000}),
        folder_with(files={"generation_config.json": {"eos_token_id": [1, 100_000]}}),
    ],
    "not-finite": [lambda folder: tiny(folder, poison=float("nan")), lambda folder: tiny(folder, poison=np.inf)],
    "zero-scale": [*(blocks_of(recipe, 1e-12) for recipe in SCALED), gptq_without_a_scale],
    "all-zero": [with_tensors(lambda tensors: [zeros(tensors[0]), *tensors[1:]])],
}


def zeros(tensor):
    from requant.sources import Memory

    return replace(tensor, sources={"data": Memory(bytes(tensor.nbytes))})


def test_every_rule_has_a_case():
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize("scale", [0, 1e-3, 1])
@pytest.mark.parametrize("recipe", SCALED)
def test_blocks_of_zeros_are_no_loss(recipe, scale, tmp_path):
    found = {one.rule for one in validate(blocks_of(recipe, scale)(tmp_path), values=True).findings}
    assert "zero-scale" not in found


@pytest.mark.parametrize(
    ("rule", "make"),
    [pytest.param(rule, make, id=f"{rule}-{n}") for rule in CASES for n, make in enumerate(CASES[rule])],
)
def test_a_rule_that_is_broken_is_told(rule, make, tmp_path):
    report = validate(make(tmp_path), values=RULES[rule].about == "values")
    assert rule in {finding.rule for finding in report.findings}, report
    assert all(finding.message and str(tmp_path / "tiny: ") not in finding.message for finding in report.findings)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (BROKEN / "gguf").glob("*.hex") if path.stem != "safetensors")
)
def test_whatever_the_reader_refuses_is_found(name, tmp_path):
    path = broken(name)(tmp_path)
    with pytest.raises(Error):
        Gguf().read(path)
    assert validate(path).count(Severity.ERROR) + ("boolean" in name) > 0


def test_all_that_is_broken_is_told_at_once(tmp_path):
    tensors = [("n" * 70, (8,), 0, 0), ("a", (8,), 0, 32), ("a", (8,), 0, 64), ("b", (31,), 8, 96), ("c", (8,), 4, 160)]
    pairs = [("k", Typed("u8", 1)), ("k", Typed("u8", 2)), ("general.alignment", Typed("u32", 24))]
    report = validate(raw(*tensors, pairs=pairs, data=bytes(64))(tmp_path))
    found = {finding.rule for finding in report.findings}
    assert found >= {"name-length", "duplicate-tensor", "duplicate-key", "alignment", "whole-blocks", "tensor-type"}


@pytest.mark.parametrize("where", ["smollm2", "minilm", "silero", "wordllama"])
def test_nothing_is_found_in_real_models(where):
    report = validate(getattr(models, where)(), values=True)
    assert report.findings == [] and report.checked


def test_nothing_is_found_in_what_is_written(tmp_path):
    folder = write_tiny_folder(tmp_path / "tiny")
    assert validate(folder, values=True).findings == []
    run("convert", folder, tmp_path / "shards", "--to", "F16", "--max-shard-tensors", "5")
    run("convert", folder, tmp_path / "split.gguf", "--to", "Q4_K_M", "--max-shard-tensors", "5")
    run("convert", folder, tmp_path / "bare.gguf", "--to", "F16", "--no-vocab")
    split = sorted(tmp_path.glob("split-00001-of-*.gguf"))
    for made in (tmp_path / "shards", *split, tmp_path / "bare.gguf"):
        report = validate(made, values=True)
        assert report.findings == [], report


@pytest.mark.slow
def test_nothing_is_found_in_any_recipe(tmp_path):
    from requant.recipes import RECIPES

    folder = write_tiny_folder(tmp_path / "tiny")
    for name in RECIPES:
        done = run("convert", folder, tmp_path / f"{name}.gguf", "--to", name)
        if done.exit_code:
            assert "needs an importance matrix" in done.stderr, done.stderr
            continue
        assert validate(tmp_path / f"{name}.gguf").findings == [], name
    for name in ("GPTQ", "AWQ", "NF4", "FP8", "W4A16", "MXFP4"):
        run("convert", folder, tmp_path / name, "--to", name)
        assert validate(tmp_path / name, values=True).findings == [], name


def test_llama_cpp_knows_these_pre_tokenizers():
    source = (models.llama_cpp_sources() / "src" / "llama-vocab.cpp").read_text()
    later = {"k2-horizon"}  # in the runtime that the tests run, and not in these sources, which are older
    assert set(re.findall(r'tokenizer_pre == "([^"]*)"', source)) == PRE_TOKENIZERS - later


@pytest.mark.slow
def test_the_vocabularies_and_templates_of_llama_cpp():
    from requant.validation.template import trouble_of

    folder = models.llama_cpp_sources() / "models"
    for path in sorted(folder.glob("ggml-vocab-*.gguf")):
        found = {finding.rule for finding in validate(path).findings}
        assert found == ({"pre-tokenizer-missing"} if path.stem[11:] in ("aquila", "gpt-neox") else set()), path
    templates = sorted((folder / "templates").glob("*.jinja"))
    assert len(templates) > 40
    for path in templates:
        assert trouble_of(path.read_text()) == "", path


def test_a_template_for_training_is_one():
    from requant.validation.template import trouble_of

    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert trouble_of(text) == ""
    assert "line 2" in trouble_of("ok\n{% nothing %}")


def test_of_one_rule_so_many_are_kept(tmp_path):
    report = Report(tmp_path)
    for n in range(MOST + 5):
        report.add("empty-token", f"token {n} is empty")
    assert (len(report.findings), report.count(Severity.WARNING), report.more) == (MOST, MOST + 5, {"empty-token": 5})


def test_exit_codes_and_documents(tmp_path):
    folder = write_tiny_folder(tmp_path / "tiny")
    warned, wrong = with_added_token(tmp_path / "w"), folder_with({"eos_token_id": 100_000})(tmp_path / "e")

    def told(*words):
        result = CliRunner().invoke(cli, ["validate", *map(str, words)])
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    assert told(folder).exit_code == 0 and "nothing is wrong" in told(folder).stdout
    assert told(folder, "--quiet").stdout == ""
    assert told(warned).exit_code == 0 and "warning: token-rows" in told(warned).stdout
    assert told(warned, "--strict").exit_code == 5 and "1 warning" in told(warned, "--strict").stderr
    assert told(wrong).exit_code == 5 and "error: special-ids" in told(wrong).stdout
    document = json.loads(told(wrong, "--json").stdout)
    assert (document["document"], document["errors"], document["findings"][0]["rule"]) == (
        "validation",
        1,
        "special-ids",
    )
    assert told().exit_code == 2 and told(tmp_path / "nothing").exit_code == 2
    rules = json.loads(told("--rules", "--json").stdout)["rules"]
    assert [rule["rule"] for rule in rules] == list(RULES)
    assert all(rule in told("--rules").stdout for rule in RULES)


def test_a_row_that_no_memory_could_hold_is_not_read_of_a_file_without_it(tmp_path):
    report = validate(raw(("a", (1 << 50, 1), 0, 0), data=bytes(64))(tmp_path), values=True)
    assert "truncated" in {finding.rule for finding in report.findings} and "values" in report.checked


def test_strings_of_strangers_are_shown_as_text(tmp_path):
    path = raw(("\x1b[2J" + "n" * 64, (8,), 0, 0), data=bytes(32))(tmp_path)
    told = CliRunner().invoke(cli, ["validate", str(path)]).stdout
    assert "\x1b" not in told and "\\x1b[2J" in told


def test_the_page_lists_every_rule():
    """REQUANT_ACCEPT=1 writes the list anew."""
    path = Path(__file__).parents[1] / "docs" / "validate.md"
    rows = [f"| `{r.name}` | {r.severity.value} | {r.about} | {r.says} | {r.reason} |" for r in RULES.values()]
    listed = "\n".join(
        ["| rule | severity | of a | what must hold | what happens else |", "| - | - | - | - | - |", *rows]
    )
    if os.environ.get("REQUANT_ACCEPT"):
        marked = re.compile(r"(<!-- rules -->\n).*(<!-- end -->\n)", re.DOTALL)
        path.write_text(marked.sub(lambda match: f"{match[1]}\n{listed}\n\n{match[2]}", path.read_text()))
    assert listed in path.read_text()
