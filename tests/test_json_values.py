"""Values of the wrong kind end in an error that names them, wherever a stranger's text is read."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.digits import whole
from requant.encodings.compressed import Packed
from requant.errors import Error, FormatError, PlanError
from requant.formats import FORMATS
from requant.formats.folding.gptq_config import GptqConfig
from requant.formats.safetensors.folder import read_config
from requant.ir import Typed
from requant.json_values import CONFIG, MAX_DEPTH, Limits, parse_json
from requant.metadata import as_count, first_count, largest_count
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from requant.operations.placed import place_of
from requant.recipes import layers_to_prune, recipe_named
from requant.schemes import scheme_named
from requant.tokenizers import to_ggml
from tests.fuzz import seeds
from tests.matrix import readable
from tests.tiny_gguf import write_tiny_llama
from tests.tokenizer_files import folder

ROOT = Path(__file__).parents[1]
PATH = Path("some/config.json")
GGUF = FORMATS["gguf"]


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "invalid JSON in line 1"),
        (b'{"a": }', "invalid JSON in line 1"),
        (b'{"a": "\xff"}', "the JSON text is not UTF-8"),
        (b'{"a": 1, "a": 2}', "two values for 'a'"),
        (b'{"a": ' + b"1" * 5000 + b"}", "number out of range: 5000 digits"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udc00\\ud800": 1}', "half of a surrogate pair"),
        (nested(MAX_DEPTH + 1).encode(), "nested too deeply"),
        (nested(100_000).encode(), "nested too deeply"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested too deeply"),
        (b"[" + b"1," * 200_001 + b"1]", "more than 200,000 items"),
        (b" " * (CONFIG.nbytes + 1), "more than 8,388,608 bytes"),
    ],
)
def test_what_is_no_json_for_us(text, said):
    with pytest.raises(FormatError, match=said) as raised:
        parse_json(text, PATH)
    assert raised.value.path == PATH
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 1}', {"a": 1}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b"[0.0, Infinity, 1e999]", [0.0, float("inf"), float("inf")]),
        (nested(MAX_DEPTH).encode(), json.loads(nested(MAX_DEPTH))),
    ],
)
def test_what_is(text, value):
    assert parse_json(text, PATH).value == value


texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8"))
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(st.characters(codec="utf-8")), inner)),
    max_leaves=20,
)


@given(value=values, ascii=st.booleans())
def test_any_json_is_what_python_reads(value, ascii):
    assert parse_json(json.dumps(value, ensure_ascii=ascii).encode(), PATH, Limits(1 << 20, 1 << 20)).value == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["llama"]),
        ("model_type", {"a": 1}),
        ("model_type", 3),
        ("architectures", "LlamaForCausalLM"),
        ("architectures", [["LlamaForCausalLM"]]),
        ("text_config", [1]),
        ("text_config", {"model_type": {}}),
        ("rope_scaling", "yarn"),
        ("rope_parameters", [1]),
        ("layer_types", "full_attention"),
        ("hidden_act", ["silu"]),
        ("torch_dtype", {}),
    ],
)
def test_keys_of_structure_are_of_their_kinds(tmp_path, key, value):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | {key: value}))
    with pytest.raises(FormatError, match=rf"{key}.* must be .*, found "):
        read_config(tmp_path)


@pytest.mark.parametrize("key", ["model_type", "architectures", "text_config", "rope_scaling", "torch_dtype"])
def test_null_is_silence(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({key: None}))
    assert read_config(tmp_path) == {key: None}


@pytest.mark.parametrize("key", ["1" * 5000, "²", "\uff11", "-1", "1_0", "", "a"])
def test_ids_of_added_tokens_are_digits(key):
    files = {
        "tokenizer.json": (seeds.CORPUS / "tokenizer.json").read_text(),
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": {key: {"content": "<x>"}}}),
    }
    with pytest.raises(FormatError, match=r"added_tokens_decoder: .* is not a token id") as raised:
        to_ggml(folder(files), None)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("digits", ["9" * 5000, "²", "1_0", "\uff11"])
def test_numbers_that_users_write(digits):
    for read in (layers_to_prune, recipe_named):
        with pytest.raises(PlanError):
            read(digits)
    for name in ("GPTQ", "AWQ", "W4A16", "NF4", "EXL2-4.0"):
        with pytest.raises(PlanError):
            scheme_named(f"{name}-{digits}")
    assert whole(digits) is None


def test_numbers_in_names_and_versions():
    """A layer of five thousand digits is no layer; a version of as many no old one."""
    long = "9" * 5000
    assert place_of(f"blk.{long}.attn_q.weight")[0] is None
    assert GptqConfig({"bits": 4, "meta": {"quantizer": [f"gptqmodel:{long}"]}}, PATH).rule("a").bits == 4


BAD = [float("nan"), float("inf"), float("-inf"), -1, 0, True, "8", [], [1.5, "a"], 2**64, 1e300, 0.5]


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("key", ["context_length", "block_count", "attention.head_count", "attention.key_length"])
def test_inspect_leaves_out_what_is_no_count(tmp_path, key, bad):
    checkpoint = GGUF.read(write_tiny_llama(tmp_path / "a.gguf"))
    whole_report = report(checkpoint, "gguf")
    assert whole_report.memory
    metadata = {**checkpoint.metadata, f"llama.{key}": Typed("f32", bad)}
    memory = report(replace(checkpoint, metadata=metadata), "gguf").memory
    assert memory == (whole_report.memory if key == "attention.key_length" else ())


@pytest.mark.parametrize("bad", [*BAD, None, {}], ids=repr)
def test_counts(bad):
    assert as_count(bad) is None
    assert first_count({"a": bad, "b": 7.0}, "a", "b") == 7
    assert largest_count({}, "a") is None
    assert largest_count({"a": Typed("[u32]", [1, bad, 4096.0])}, "a") == 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(seeds.hf_models()))
@pytest.mark.parametrize("bad", [["x"], {}, "x", -1, 0, 1.5, True, float("nan"), 2**64, 10**300], ids=str)
def test_every_key_of_every_family_of_every_wrong_kind(tmp_path, name, bad):
    """A plan, or an error: for each key of each family's config.json."""
    seed = seeds.hf_models()[name]
    for key in seed.config:
        (tmp_path / "config.json").write_text(json.dumps({**seed.config, key: bad}))
        try:
            config = read_config(tmp_path)
            checkpoint = seeds.hf_checkpoint(replace(seed, config=config), tmp_path)
            report(checkpoint, "hf")
            plan_conversion(checkpoint, GGUF, Path("o.gguf"), Request("Q8_0", vocabulary=False))
        except Error as error:
            assert len(str(error)) < 2000


@pytest.mark.parametrize("label", [name for name, one in readable().items() if {"group", "block"} & {*one.__slots__}])
def test_groups_hold_something(label):
    """Shapes out of a file may divide to 0; compressed-tensors' 0 is the whole tensor."""
    encoding = readable()[label]
    name = "group" if "group" in encoding.__slots__ else "block"
    if isinstance(encoding, Packed):
        assert replace(encoding, group=0).parts((256, 256))
        return
    for bad in (0, -2):
        with pytest.raises(PlanError, match=f"groups of {bad}"):
            replace(encoding, **{name: bad})


#: Where JSON is parsed that no stranger wrote, or that is streamed.
ELSEWHERE = {
    "requant/json_values.py",
    "requant/verify/llama_server.py",
    "requant/verify/llama_child.py",
    "requant/verify/llama_channel.py",
    "requant/verify/llama_cpp.py",
    "requant/journal.py",
    "requant/ollama/rendering.py",  # what a process of ours says, and what it is told
    "requant/ollama/sandbox.py",
    "requant/operations/calibrate.py",  # what lies in the package
    "requant/run_journal.py",  # what we have written ourselves, with a checksum
    "requant/calibration/resuming.py",  # likewise; whatever is wrong with it is told
    "requant/torch/modules.py",  # what transformers says in this process
    "cli/merge_recipe.py",  # what the user writes after --param
}


def test_strangers_json_comes_in_through_one_door():
    found = set()
    for path in [path for part in ("cli", "requant", "formats") for path in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load"):
                found.add(path.relative_to(ROOT).as_posix())
    assert found <= ELSEWHERE
