"""config.json under the names of transformers 4 and 5; tests/test_config_consumers.py asks the libraries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.architectures.spellings import both_spellings

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({}, {}),
        ({"num_local_experts": 8}, {"num_experts": 8}),
        ({"num_experts": 8}, {"num_local_experts": 8}),
        ({"n_positions": 64}, {"n_ctx": 64}),
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"torch_dtype": "float16"}, {"dtype": "float16"}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": None},
        ),
        (
            {"rope_parameters": {**YARN, "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": {**YARN, "type": "yarn"}},
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0, "type": "linear"},
            },
        ),
        ({"text_config": {"num_experts": 4}}, {"text_config": {"num_experts": 4, "num_local_experts": 4}}),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, {"rope_scaling": None}),
    ],
)
def test_what_is_added(config, added):
    assert both_spellings(config) == {**config, **added}


def test_what_phi3_may_have_in_transformers_4():
    factors = {"short_factor": [1.0], "long_factor": [2.0]}
    rope = {**factors, "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096}
    found = both_spellings({"model_type": "phi3", "rope_parameters": rope, "max_position_embeddings": 8192})
    assert found["rope_scaling"] == {**factors, "type": "longrope"}
    assert found["original_max_position_embeddings"] == 4096
    found = both_spellings({"model_type": "llama", "rope_parameters": rope, "max_position_embeddings": 8192})
    assert found["rope_scaling"]["factor"] == 2.0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_KEYS = ("num_experts", "num_local_experts", "dtype", "rope_parameters", "rope_scaling", "rope_theta", "text_config")


@given(st.dictionaries(st.sampled_from((*_KEYS, "model_type", "max_position_embeddings")), _JSON))
def test_any_values_are_survived_and_twice_is_once(config):
    once = both_spellings(config)
    assert both_spellings(once) == once
    kept = {
        key: value for key, value in config.items() if key not in ("text_config", "rope_scaling") and value is not None
    }
    assert {key: once[key] for key in kept} == kept
