"""Whatever config.json or a GGUF's metadata say, translating ends in a Translation or in an Error."""

import contextlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from requant.architectures import ARCHITECTURES, translate
from requant.errors import Error
from requant.ir import Naming, Typed
from tests.test_architectures_general import file
from tests.test_architectures_refused import CONFIG, gguf, hf

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings", "text_config")
ROPE_PARAMETERS = (
    *(
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "long_factor",
        "short_factor",
    ),
    *("original_max_position_embeddings", "attention_factor", "mscale", "mscale_all_dim", "full_attention"),
)
HF_KEYS = sorted(
    {*CONFIG, *ROPE_KEYS, "sliding_window", "layer_types", "query_pre_attn_scalar", "partial_rotary_factor"}
    | {name for family in ARCHITECTURES for key in family.keys for name in key.hf}
    | {item.hf for family in ARCHITECTURES for item in family.assumptions}
)
GGUF_KEYS = sorted(
    {key.ggml for family in ARCHITECTURES for key in family.keys} | {"rope.scaling.type", "rope.freq_base"}
)
CLASSES = sorted({name for family in ARCHITECTURES for name in family.classes})

numbers = st.one_of(st.integers(-3, 70), st.integers(), st.floats(), st.sampled_from([0, 1, 2, 8, 64, 10**400, 1e300]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
kinds = st.sampled_from(["default", "linear", "yarn", "llama3", "longrope", "su", "dynamic", "none"])
ropes = st.dictionaries(st.sampled_from(ROPE_PARAMETERS), st.one_of(scalars, kinds, st.lists(scalars, max_size=3)))
anything = st.one_of(scalars, kinds, ropes, st.lists(scalars, max_size=3), st.sampled_from(CLASSES).map(lambda c: [c]))


@given(config=st.dictionaries(st.sampled_from(HF_KEYS), anything, max_size=4))
def test_any_config(config):
    with contextlib.suppress(Error):
        translate(hf(config), Naming.GGML)


@given(scaling=ropes, kind=kinds)
def test_any_rope(scaling, kind):
    with contextlib.suppress(Error):
        translate(hf({"rope_scaling": {**scaling, "rope_type": kind}}), Naming.GGML)


@given(
    values=st.dictionaries(st.sampled_from(GGUF_KEYS), st.one_of(scalars, st.lists(numbers, max_size=3)), max_size=4)
)
def test_any_metadata(values):
    said = {f"llama.{key}": Typed("str", value) for key, value in values.items() if value is not None}
    with contextlib.suppress(Error):
        translate(gguf(said), Naming.HF)


@given(text=st.text(max_size=60), modules=anything)
def test_any_file(text, modules):
    files = {
        "README.md": file(f"---\n{text}\n---\n"),
        "generation_config.json": file(text),
        "modules.json": file(modules),
    }
    with contextlib.suppress(Error):
        translate(replace(hf(), files=files), Naming.GGML)
