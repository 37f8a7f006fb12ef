"""What contradicts itself is refused while planning, by the name of the tensor or key; nothing is silently dropped."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from requant.architectures import ARCHITECTURES, translate
from requant.encodings import F32
from requant.errors import PlanError, UnsupportedError
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.losses import LossKind
from requant.sources import Memory
from tests.tiny_models import make

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LAYER = {
    "input_layernorm.weight": (8,),
    "post_attention_layernorm.weight": (8,),
    "self_attn.q_proj.weight": (8, 8),
    "self_attn.k_proj.weight": (4, 8),
    "self_attn.v_proj.weight": (4, 8),
    "self_attn.o_proj.weight": (8, 8),
    "mlp.gate_proj.weight": (12, 8),
    "mlp.up_proj.weight": (12, 8),
    "mlp.down_proj.weight": (8, 12),
}
SHAPES = {
    "model.embed_tokens.weight": (10, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (10, 8),
    **{f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in LAYER.items()},
}


def tensor(name, shape, fill=0.0):
    return Tensor(name, shape, F32, {"data": Memory(np.full(shape, fill, "<f4").tobytes())})


def hf(config=(), shapes=(), without=()):
    """A tiny Llama with changes; a value of None takes a key out of config.json."""
    changed = {key: value for key, value in (CONFIG | dict(config)).items() if value is not ...}
    named = {name: shape for name, shape in (SHAPES | dict(shapes)).items() if name not in without}
    tensors = tuple(tensor(name, shape) for name, shape in named.items())
    return Checkpoint(Naming.HF, str(changed.get("model_type", "")), tensors, changed)


def gguf(metadata=(), without=(), more=()):
    """The same as GGUF."""
    said = translate(hf(), Naming.GGML)
    tensors = [tensor(move.name, move.shape) for move in said.moves if move.name not in without]
    kept = {key: typed for key, typed in (said.metadata | dict(metadata)).items() if typed is not None}
    return Checkpoint(Naming.GGML, "llama", (*tensors, *more), metadata=kept)


def refused(checkpoint, *words, error=PlanError):
    naming = Naming.GGML if checkpoint.naming is Naming.HF else Naming.HF
    with pytest.raises(error) as caught:
        translate(checkpoint, naming)
    told = f"{caught.value} / {caught.value.hint}"
    for word in words:
        assert word in told


def test_the_tiny_model_itself_is_fine():
    assert len(translate(hf(), Naming.GGML).moves) == len(SHAPES)
    assert len(translate(gguf(), Naming.HF).moves) == len(SHAPES)


LAST = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "lm_head.weight"])
def test_missing_tensor(name):
    refused(hf(without=[name]), name, "missing")


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shape(name):
    longer = (*SHAPES[name][:-1], SHAPES[name][-1] + 1)
    refused(hf(shapes={name: longer}), name, str(list(longer)), str(list(SHAPES[name])))


def test_missing_tensor_names_its_layer():
    refused(hf(without=[LAST]), "layer 1")


def test_unknown_tensor():
    refused(hf(shapes={"model.layers.0.adapter.weight": (2, 2)}), "model.layers.0.adapter.weight", "does not belong")


def test_layer_beyond_the_configuration():
    refused(hf({"num_hidden_layers": 1}), "model.layers.1.", "the configuration says 1 layers")


def test_bias_that_the_configuration_denies():
    refused(hf(shapes={"model.layers.0.self_attn.q_proj.bias": (8,)}), "q_proj.bias", "attention_bias = false")


def test_bias_that_the_configuration_promises():
    refused(hf({"attention_bias": True}), "model.layers.0.self_attn.q_proj.bias", "missing")


def test_buffers_are_left_out():
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
    assert translate(hf(shapes=buffer), Naming.GGML).losses == ()


def test_untied_without_head():
    refused(hf(without=["lm_head.weight"]), "lm_head.weight", "missing", "tie_word_embeddings")


def test_silence_means_untied_for_llama():
    refused(hf({"tie_word_embeddings": ...}, without=["lm_head.weight"]), "lm_head.weight", "implies")


def test_tied_with_a_head_of_its_own():
    model = hf({"tie_word_embeddings": True})
    other = tuple(tensor(t.name, t.shape, 1.0) if t.name == "lm_head.weight" else t for t in model.tensors)
    refused(replace(model, tensors=other), "lm_head.weight", "model.embed_tokens.weight", "differ")


def test_tied_with_a_copy():
    said = translate(hf({"tie_word_embeddings": True}), Naming.GGML)
    assert "output.weight" not in {move.name for move in said.moves}
    assert said.losses == ()


@pytest.mark.parametrize("vocabulary", [9, 11, "ten"])
def test_vocabulary_that_does_not_fit(vocabulary):
    refused(hf({"vocab_size": vocabulary}), "vocab_size", "model.embed_tokens.weight", "10 rows")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_key_value_heads": 3}, ["2 attention heads", "3 key/value heads"]),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, ["head"]),
        ({"num_attention_heads": 0}, ["attention.head_count"]),
        ({"num_hidden_layers": 1 << 40}, ["num_hidden_layers"]),
        ({"num_hidden_layers": 1 << 30}, ["layers", "tensors"]),
        ({"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers", "'two'"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers", "True"]),
        ({"num_hidden_layers": ...}, ["num_hidden_layers", "missing"]),
        ({"hidden_size": 8.5}, ["hidden_size"]),
        ({"rms_norm_eps": "small"}, ["rms_norm_eps"]),
        ({"rms_norm_eps": math.nan}, ["rms_norm_eps"]),
        ({"rms_norm_eps": 10**400}, ["rms_norm_eps"]),
        ({"head_dim": [4]}, ["head_dim"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        ({"rope_theta": "big"}, ["rope_theta"]),
        ({"rope_scaling": "yarn"}, ["rope"]),
        ({"rope_scaling": {"rope_type": "yarn"}}, ["factor"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, ["factor"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, ["factor"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8, "high_freq_factor": 1}}, ["llama3"]),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}, ["long_factor", "2 numbers"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"text_config": {"num_hidden_layers": None}}, ["num_hidden_layers"]),
    ],
)
def test_configuration_that_makes_no_sense(config, words):
    refused(hf(config), *words)


def test_unknown_rope_scaling():
    refused(hf({"rope_scaling": {"rope_type": "spiral", "factor": 2}}), "spiral", "yarn", error=UnsupportedError)


def test_dynamic_rope_scaling_is_a_loss():
    (loss,) = translate(hf({"rope_scaling": {"type": "dynamic", "factor": 2}}), Naming.GGML).losses
    assert (loss.kind, loss.subject) == (LossKind.METADATA_DROPPED, "rope_scaling")


def test_unknown_architecture():
    names = {family.model_type for family in ARCHITECTURES}
    other = {"architectures": ["StrangeForCausalLM"], "model_type": "strange"}
    refused(hf(other), "StrangeForCausalLM", "strange", *names, error=UnsupportedError)
    refused(hf({"architectures": ..., "model_type": ...}), "no architecture", error=UnsupportedError)
    refused(replace(gguf(), architecture="strange"), "strange", "llama", error=UnsupportedError)


@pytest.mark.parametrize("value", [[], {}, "yes", 1, None])
def test_a_tying_that_is_none(value):
    """Of the whole model and of its text model: no traceback, whatever stands there."""
    told = translate(hf({"tie_word_embeddings": value, "text_config": {"tie_word_embeddings": False}}), Naming.GGML)
    assert "output.weight" in {move.name for move in told.moves}


@pytest.mark.parametrize("whole", [True, False])
def test_a_tying_said_twice(whole):
    """The tensors tell which word counts: transformers 5 goes by the whole model's, earlier releases by the other."""
    twice = {"tie_word_embeddings": whole, "text_config": {"tie_word_embeddings": not whole}}
    names = {move.name for move in translate(hf(twice), Naming.GGML).moves}
    assert "output.weight" in names
    assert names - {move.name for move in translate(hf(twice, without=["lm_head.weight"]), Naming.GGML).moves} == {
        "output.weight"
    }


def test_no_familys_word_stands_before_the_list_of_all():
    other = {"architectures": ["StrangeForCausalLM"], "model_type": "strange", "layer_types": ["odd", "odder"]}
    refused(hf(other), "StrangeForCausalLM", "llama", error=UnsupportedError)


def test_what_sees_around_a_llama_is_no_llama():
    text = dict(hf().config)
    config = {"architectures": ["SeeingForConditionalGeneration"], "model_type": "seeing", "text_config": text}
    refused(replace(hf(), architecture="seeing", config=config), "SeeingFor", "not supported", error=UnsupportedError)


def test_a_llava_around_another_text_model_is_refused():
    text = dict(hf().config) | {"model_type": "gemma"}
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text}
    refused(replace(hf(), architecture="llava", config=config), "LlavaFor", "not supported", error=UnsupportedError)


def test_class_decides_over_model_type():
    assert translate(hf({"architectures": ["MistralForCausalLM"]}), Naming.GGML).metadata[
        "llama.attention.sliding_window"
    ] == Typed("u32", 4096)
    assert translate(hf({"architectures": ["MyOwnForCausalLM"]}), Naming.GGML).architecture == "llama"


def test_gguf_without_a_key():
    refused(gguf({"llama.block_count": None}), "llama.block_count", "missing")
    refused(gguf({"llama.attention.layer_norm_rms_epsilon": None}), "layer_norm_rms_epsilon", "missing")


@pytest.mark.parametrize(
    ("key", "typed", "word"),
    [
        ("block_count", Typed("str", "2"), "'2'"),
        ("block_count", Typed("u32", 1 << 31), "block_count"),
        ("block_count", Typed("u32", 1 << 30), "layers"),
        ("attention.head_count", Typed("[u32]", [2, 2]), "head_count"),
        ("attention.value_length", Typed("u32", 3), "value_length"),
        ("rope.dimension_count", Typed("u32", 2), "rope.dimension_count"),
        ("vocab_size", Typed("u32", 11), "vocab_size"),
        ("rope.freq_base", Typed("str", "x"), "freq_base"),
    ],
)
def test_gguf_that_makes_no_sense(key, typed, word):
    refused(gguf({f"llama.{key}": typed}), word)


def test_gguf_tensors():
    refused(gguf(without=["blk.1.ffn_up.weight"]), "blk.1.ffn_up.weight", "layer 1", "missing")
    refused(gguf(without=["token_embd.weight"]), "token_embd.weight", "missing")
    refused(gguf(more=[tensor("blk.0.ffn_up.scale", (1,))]), "blk.0.ffn_up.scale", "does not belong")
    refused(gguf(more=[tensor("blk.1.attn_q.bias", (8,))]), "blk.0.attn_q.bias", "missing")
    refused(gguf(more=[tensor("rope_freqs.weight", (3,))]), "rope_freqs.weight", "[2]")


def test_gguf_without_head_is_tied():
    config = translate(gguf(without=["output.weight"]), Naming.HF).config
    assert config["tie_word_embeddings"] is True


def test_missing_optional_keys_are_what_llama_cpp_takes():
    keys = ("attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count", "vocab_size")
    config = translate(gguf({f"llama.{key}": None for key in keys}), Naming.HF).config
    assert (config["head_dim"], config["rope_theta"], config["vocab_size"]) == (4, 10000.0, 10)


def test_absurd_counts_are_refused_quickly():
    began = time.process_time()
    refused(hf({"num_hidden_layers": 2_000_000_000}), "layers")
    refused(gguf({"llama.block_count": Typed("u32", 2_000_000_000)}), "layers")
    huge = Typed("u32", 2_000_000_000)
    refused(gguf({"llama.expert_count": huge}), "expert")
    refused(gguf({"llama.expert_count": huge, "llama.expert_used_count": huge, "llama.block_count": huge}), "experts")
    widths = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    refused(gguf({f"llama.{key}": huge for key in widths}), "per head")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("modernbert", "classifier_pooling", []),
        ("modernbert", "classifier_pooling", "late"),
        ("llama4", "interleave_moe_layer_step", 0),
        ("baichuan", "num_hidden_layers", 2),
        ("mellum", "mlp_layer_types", ["dense"] * 4),
        ("museglimmer", "layer_rope_theta", [10000.0] * 4),
        ("granitemoeswa", "layer_rope_theta", [5.0] * 4),
        ("roberta", "pad_token_id", 0),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_by_its_key(name, key, value, tmp_path):
    make(name, tmp_path)
    source = Safetensors().read(tmp_path)
    config = dict(source.config)
    text = config.get("text_config")
    config |= {"text_config": {**text, key: value}} if isinstance(text, dict) else {key: value}
    with pytest.raises(PlanError, match="layers" if key == "num_hidden_layers" else key):
        translate(replace(source, config=config), Naming.GGML)
