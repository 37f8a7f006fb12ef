"""The tables themselves: they invert, and llama.cpp knows every name in them."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.architectures import ARCHITECTURES, index
from requant.architectures.names import expected
from requant.architectures.rope import llama3_factors, parameters, scaling_of_factors
from requant.architectures.rules import Order
from requant.encodings import F32
from requant.expressions import RopeOrder, Stored
from requant.ir import Tensor

GOLDENS = Path(__file__).parent.parent / "fixtures" / "architectures"
FAMILIES = {f"{family.model_type} ({family.ggml})": family for family in ARCHITECTURES}
ARCHITECTURE_NUMBERS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}

#: Every size that a rule names.
SIZES = {
    name
    for family in ARCHITECTURES
    for rule in family.rules
    for name in (*rule.shape, *rule.ggml_shape, *rule.among, rule.each, rule.heads)
}
sizes = st.fixed_dictionaries(
    {name: st.integers(1, 9) for name in sorted(SIZES - {"experts"})}
    | {"layers": st.integers(1, 5), "experts": st.integers(1, 4)}
)


@settings(max_examples=15)  # of each of so many families
@given(sizes=sizes, data=st.data())
@pytest.mark.parametrize("model_type", FAMILIES)
def test_names_are_a_bijection(model_type, sizes, data):
    family = FAMILIES[model_type]
    flags = {flag: data.draw(st.booleans(), flag) for flag in (*family.flags, *family.present, "untied")}
    some = st.lists(st.booleans(), min_size=sizes["layers"], max_size=sizes["layers"])
    flags |= {flag: data.draw(some, flag) for flag in (*family.layers, *family.told)}
    base = data.draw(st.sampled_from(family.bases), "base")
    items = list(expected(family, sizes, flags, base))
    theirs = [(name, item.rule.turn) for item in items for name in item.hf]
    assert len(set(theirs)) == len(theirs)
    others = [
        (name, other.part)
        for item in items
        for other, names in zip(item.rule.apart, item.apart, strict=True)
        for name in names
    ]
    assert len(set(others)) == len(others)
    assert len({item.ggml for item in items}) == len(items)


def names_of(number):
    return {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[number]}


def in_goldens(architecture):
    """Names that llama.cpp's converter has written in a GGUF of this architecture."""
    files = [json.loads(path.read_text()) for path in GOLDENS.glob("*.json")]
    names = [set(file["tensors"]) for file in files if file["metadata"]["general.architecture"][1] == architecture]
    return {re.sub(r"\.\d+\.", ".{bid}.", name).rpartition(".")[0] for one in names for name in one}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_llama_cpp_knows_every_tensor(model_type):
    family = FAMILIES[model_type]
    number = ARCHITECTURE_NUMBERS.get(family.ggml)  # none: the release of gguf is older; then the goldens say it
    known = set(gguf.TENSOR_NAMES.values()) | in_goldens(family.ggml) if number is None else names_of(number)
    tied = any(item.hf == "tie_word_embeddings" and item.values == (True,) for item in family.assumptions)
    for rule in family.rules:
        if rule.when == "untied" and (tied or family.ggml == "lfm2moe"):  # where this release of gguf has none
            continue  # there for copies of the embedding, which are left out
        stem, _, ending = rule.ggml.rpartition(".")
        endless = (*("blk.{n}.exp_probs_b", "blk.{n}.ssm_a", "blk.{n}.ssm_d"), "blk.{n}.ffn_norm")
        if family.ggml == "plamo3":
            endless = (*endless, "blk.{n}.post_attention_norm", "blk.{n}.post_ffw_norm")
        if rule.ggml in endless:  # which have no ending in llama.cpp
            stem, ending = rule.ggml, "bias"
        assert stem.replace("{n}", "{bid}") in known
        assert ending in ("weight", "bias", "scale")
        assert rule.layered == ("{n}" in rule.hf)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_llama_cpp_knows_every_key(model_type):
    family = FAMILIES[model_type]
    groups = (
        gguf.Keys.LLM,
        gguf.Keys.Attention,
        gguf.Keys.Rope,
        gguf.Keys.Tokenizer,
        gguf.Keys.SSM,
        gguf.Keys.ShortConv,
        gguf.Keys.WKV,
    )
    newer = {  # than this release of gguf
        *("attention.recurrent_layers", "classifier.activation", "hidden_activation", "num_loops"),
        "skip_loop_final_norm",
        *("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa", "moe_latent_size"),
        *(f"attention.indexer.{name}" for name in ("head_count", "key_length", "top_k", "types")),
        "kda.head_dim",
        *(f"attention.{name}" for name in ("output_group_count", "output_lora_rank", "compress_ratios")),
        *("attention.compress_rope_freq_base", "hash_layer_count", "embedding_length_out"),
        *(f"hyper_connection.{name}" for name in ("count", "sinkhorn_iterations", "epsilon")),
    }
    known = newer | {value for group in groups for value in vars(group).values() if isinstance(value, str)}
    known |= {gguf.Keys.Diffusion.SHIFT_LOGITS, *vars(gguf.Keys.xIELU).values()}
    for key in family.keys:
        assert key.ggml in known or f"{{arch}}.{key.ggml}" in known, key.ggml


@pytest.mark.parametrize("model_type", FAMILIES)
def test_whose_turn_it_is(model_type):
    """Two rules, one after the other, share an HF tensor in turn."""
    rules = FAMILIES[model_type].rules
    for one, other in pairwise(rules):
        assert (one.turn == 0) == (other.turn == 1)
        if one.turn == 0:
            assert (one.hf, one.shape) == (other.hf, other.shape)
            assert one.among or one.order == other.order
            assert one.among or sum(name.endswith("_pair") for name in one.shape) == 1
            assert (one.among, one.changes) == (other.among, other.changes)


def test_every_rule_in_rope_order_is_of_a_gguf_that_interleaves():
    rotated = {family.ggml for family in ARCHITECTURES for rule in family.rules if rule.order is Order.ROPE}
    assert rotated == {
        *("llama", "arcee", "granite", "granitemoe", "mistral3", "olmo", "smollm3", "llama-embed", "llada", "nanbeige"),
        *("baichuan", "internlm2", "minicpm", "xverse", "granite_swa", "bailingmoe", "muse-glimmer", "arctic"),
        *("granitehybrid", "nemotron_h", "nemotron_h_moe", "deepseek"),
    }


def test_of_families_that_share_an_architecture_the_last_takes_all():
    last = {family.ggml: family for family in ARCHITECTURES}
    assert all(family.claims({}) for family in last.values())


@given(heads=st.integers(1, 6), half=st.integers(1, 40))
def test_row_orders_invert(heads, half):
    rows = Stored(Tensor("q", (heads * 2 * half, 1), F32, {}))
    order, back = RopeOrder(rows, heads).source_rows(), RopeOrder(rows, heads, inverse=True).source_rows()
    assert np.array_equal(order[back], np.arange(2 * half))
    assert np.array_equal(back[order], np.arange(2 * half))


@given(
    theta=st.sampled_from([1e4, 1e5, 5e5, 1e6]),
    head=st.sampled_from([16, 32, 64, 128]),
    factor=st.sampled_from([2.0, 4.0, 8.0, 32.0]),
    low=st.sampled_from([1.0, 1.5, 2.0]),
    ratio=st.sampled_from([2.0, 4.0, 8.0]),
    original=st.sampled_from([256, 2048, 4096, 8192, 16384]),
)
def test_parameters_found_from_factors_give_these_factors(theta, head, factor, low, ratio, original):
    scaling = {
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low * ratio,
        "original_max_position_embeddings": original,
    }
    factors = llama3_factors(scaling, head)
    found = scaling_of_factors(factors, theta, head, 4096)
    if found["rope_type"] == "llama3":
        assert np.allclose(llama3_factors(found | {"rope_theta": theta}, head), factors, rtol=3e-7, atol=0)
    else:
        assert found["rope_type"] == "longrope"
        assert np.array_equal(np.float32(found["short_factor"]), factors)
        assert found["long_factor"] == found["short_factor"]


@pytest.mark.parametrize(("theta", "head", "factor"), [(500000.0, 128, 8.0), (500000.0, 64, 32.0)])
def test_llama_3_itself_is_found(theta, head, factor):
    scaling = {"rope_theta": theta, "factor": factor, "original_max_position_embeddings": 8192}
    found = scaling_of_factors(llama3_factors(scaling, head), theta, head, 131072)
    assert found == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}},
    ],
)
def test_every_spelling_of_rope_parameters(config):
    found = parameters(config, 10000.0)
    assert (found["rope_type"], found["factor"], found["rope_theta"]) == ("linear", 2.0, 5e5)


def test_the_index_says_what_the_tables_say():
    for (name, file, words), family in zip(index.TABLE, ARCHITECTURES, strict=True):
        assert " ".join(index.words_of(family)) == words, f'{name} of {file}: "{" ".join(index.words_of(family))}"'


def test_a_model_imports_the_table_of_its_family_alone():
    code = "import sys; from requant.architectures import index; index.named(['llama']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "requant.architectures.llama" in loaded
    assert not {"requant.architectures.olmo", "requant.architectures.deepseek", "requant.architectures.bert"} & loaded
