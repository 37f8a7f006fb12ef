"""What config.json says of layers, when layers are left out, repeated or moved."""

import pytest

from requant.errors import PlanError
from requant.layered import relayered_config
from requant.merging.layers import MAPPINGS, layer_list, student_layers


def test_lists_with_a_value_for_each_layer_are_cut_along():
    config = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "eos_token_id": [1, 2, 3]}
    found = relayered_config(config, [2, 0, 0, 1], 3)
    assert found["num_hidden_layers"] == 4
    assert found["layer_types"] == ["c", "a", "a", "b"]
    assert found["eos_token_id"] == [1, 2, 3]
    assert relayered_config(config, [0, 1, 2], 3) == config


def test_layers_of_other_models_bring_their_kinds():
    first = {"model_type": "llama", "num_hidden_layers": 2, "layer_types": ["a", "b"]}
    other = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    found = relayered_config(first, [1, 2, 0], 2, [first, other, other])
    assert found["layer_types"] == ["b", "z", "x"] and found["num_hidden_layers"] == 3
    with pytest.raises(PlanError, match="layer_types of one of the models has no value for its layer 2"):
        relayered_config(first, [1, 2], 2, [first, {**other, "layer_types": ["x"]}])


def test_kinds_that_positions_imply_are_listed():
    config = {"model_type": "gemma2", "num_hidden_layers": 4}
    assert relayered_config(config, [0, 2, 3], 4)["layer_types"] == [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 7}}
    text = relayered_config(nested, [5, 6], 7)["text_config"]
    assert text == {
        "model_type": "gemma3_text",
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
    }
    rope = relayered_config({"model_type": "smollm3", "num_hidden_layers": 5}, [3, 4], 5)
    assert rope["no_rope_layers"] == [0, 1]


def test_transformers_implies_the_same_kinds():
    """The table's facts, from the configuration classes themselves."""
    import transformers

    for name, kind in (
        ("Gemma2Config", "gemma2"),
        ("Gemma3TextConfig", "gemma3_text"),
        ("Cohere2Config", "cohere2"),
        ("Olmo3Config", "olmo3"),
        ("GptOssConfig", "gpt_oss"),
        ("Qwen3NextConfig", "qwen3_next"),
    ):
        config = getattr(transformers, name)(num_hidden_layers=13)
        moved = list(range(1, 13))
        found = relayered_config({"model_type": kind, "num_hidden_layers": 13}, moved, 13)
        assert found["layer_types"] == [config.layer_types[n] for n in moved], kind
    config = transformers.SmolLM3Config(num_hidden_layers=13)
    found = relayered_config({"model_type": "smollm3", "num_hidden_layers": 13}, moved, 13)
    assert found["no_rope_layers"] == [config.no_rope_layers[n] for n in moved]


def test_what_positions_alone_say_is_refused_once_layers_move():
    config = {"model_type": "deepseek", "num_hidden_layers": 4, "first_k_dense_replace": 1}
    assert relayered_config(config, [0, 1], 4)["first_k_dense_replace"] == 1
    with pytest.raises(PlanError, match="first_k_dense_replace says by position"):
        relayered_config(config, [1, 2], 4)
    with pytest.raises(PlanError, match="max_window_layers"):
        relayered_config({"num_hidden_layers": 4, "max_window_layers": 2, "use_sliding_window": True}, [1, 2], 4)
    relayered_config({"num_hidden_layers": 4, "max_window_layers": 2, "use_sliding_window": False}, [1, 2], 4)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(("count", "wanted"), [(24, 6), (24, 12), (12, 12), (7, 1), (30, 29)])
def test_students_have_as_many_layers_as_asked(mapping, count, wanted):
    found = student_layers(count, wanted, mapping)
    assert len(found) == wanted == len(set(found))
    assert list(found) == sorted(found)
    assert set(found) <= set(range(count))


def test_mappings_are_what_their_names_say():
    assert student_layers(12, 6, "alternating") == (0, 2, 4, 6, 8, 10)
    assert student_layers(12, 4, "uniform") == (0, 4, 7, 11)
    assert student_layers(12, 6, "uniform") == (0, 2, 4, 7, 9, 11)  # extract_distilbert.py of transformers' examples
    assert student_layers(12, 4, "ends") == (2, 5, 8, 11)  # TinyBERT's g(m) = 3 m, counted from 1
    assert student_layers(12, 3, "first") == (0, 1, 2)
    assert student_layers(12, 3, "last") == (9, 10, 11)
    top = student_layers(24, 8, "top-heavy")
    assert sum(n >= 12 for n in top) > 4
    with pytest.raises(PlanError, match="13 layers cannot be chosen of 12"):
        student_layers(12, 13, "uniform")


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "12", "0-12", "1,,2"])
def test_lists_of_layers_that_are_none(text):
    with pytest.raises(PlanError, match="--keep-layers"):
        layer_list(text, 12, "--keep-layers")
