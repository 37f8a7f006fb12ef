"""DeepSeek V4: what the suites of all families do not say of it."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from requant.architectures import translate
from requant.encodings import BLOCKS, DENSE
from requant.errors import PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Naming
from requant.operations.compare import compare, with_numbers
from requant.operations.convert import Request, plan_conversion
from requant.sources import read
from requant.verify.llama_cpp import LlamaCpp
from tests.naive_expressions import values
from tests.published_streams import packed
from tests.tiny_models import make

TABLE = "layers.0.ffn.gate.tid2eid"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "deepseek4-release"
    make("deepseek4-release", folder)
    return folder


def to_gguf(folder, path, recipe):
    execute(plan_conversion(Safetensors().read(folder), Gguf(), path, Request(recipe, vocabulary=False)))
    return {tensor.name: tensor for tensor in Gguf().read(path).tensors}


def changed(released, folder, config=(), leave=(), tensors=()):
    """A copy, with other settings and tensors."""
    folder.mkdir()
    kept = load_file(released / "model.safetensors") | dict(tensors)
    save_file(kept, folder / "model.safetensors")
    said = json.loads((released / "config.json").read_text()) | dict(config)
    said = {key: value for key, value in said.items() if key not in leave}
    (folder / "config.json").write_text(json.dumps(said))
    return Safetensors().read(folder)


def test_experts_of_the_release_keep_their_codes(released, tmp_path):
    """A folder with experts as they are published: MXFP4 of the same values, and llama.cpp computes the same."""
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}
    settings = {"quantization_config": quantization, "expert_dtype": "fp4"}
    tensors = packed(load_file(released / "model.safetensors"))
    changed(released, tmp_path / "packed", settings, tensors=tensors)
    kept = to_gguf(tmp_path / "packed", tmp_path / "packed.gguf", "COPY")
    plain = to_gguf(released, tmp_path / "plain.gguf", "F32")
    assert kept.keys() == plain.keys()
    blocks = {name for name, tensor in kept.items() if tensor.encoding == BLOCKS["MXFP4"]}
    assert blocks == {f"blk.{n}.ffn_{part}_exps.weight" for n in range(5) for part in ("gate", "up", "down")}
    found = []
    for name in ("packed", "plain"):
        with LlamaCpp(tmp_path / f"{name}.gguf", n_ctx=256, precise=True) as runtime:
            found.append(runtime.logits(np.random.default_rng(3).integers(3, 96, 200).tolist()))
    # llama.cpp rounds what it multiplies with MXFP4 to 8 bits
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.99


def test_the_table_of_tokens_is_whole_numbers(released, tmp_path):
    found = to_gguf(released, tmp_path / "model.gguf", "Q4_K_M")["blk.0.ffn_gate_tid2eid.weight"]
    source = load_file(released / "model.safetensors")[TABLE].numpy()
    assert source.dtype == np.int64 and len(np.unique(source)) == 8
    assert found.encoding == DENSE["I32"]
    assert np.array_equal(read(found.sources["data"]).view("<i4").reshape(found.shape), source)


@pytest.mark.parametrize("wrong", [8, -1, 1 << 40])
def test_a_table_that_names_no_expert_is_refused(released, tmp_path, wrong):
    table = load_file(released / "model.safetensors")[TABLE].clone()
    table[5, 1] = wrong
    source = changed(released, tmp_path / "hf", tensors={TABLE: table})
    with pytest.raises(PlanError, match=f"'{TABLE}' sends a token to expert {wrong}, of 8 that there are"):
        translate(source, Naming.GGML)


def test_a_table_of_other_numbers_is_refused(released, tmp_path):
    table = load_file(released / "model.safetensors")[TABLE].float()
    source = changed(released, tmp_path / "hf", tensors={TABLE: table})
    with pytest.raises(PlanError, match=f"'{TABLE}' is F32; numbers of experts are I64 or I32"):
        translate(source, Naming.GGML)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"compress_ratios": [0, 4, 128, 4]}, "5 layers need one of \\[0, 4, 128\\] each"),
        ({"compress_ratios": [0, 4, 128, 8, 0]}, "5 layers need one of \\[0, 4, 128\\] each"),
        ({"compress_ratios": [0, 4, 128, [4], 0]}, "i32 is needed"),
        ({"compress_ratios": 4}, "a list"),
        ({"layer_types": ["full_attention"] * 5}, "layer_types"),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe", "moe"]}, "hash_moe layers before the first other one"),
        ({"mlp_layer_types": "moe"}, "a list of hash_moe and moe is needed"),
        ({"compress_rates": {"compressed_sparse_attention": 8}}, "compress_rates"),
        ({"scoring_func": "sigmoid"}, "scoring_func"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"hc_mult": 2}, "hc_mult"),
        ({"o_groups": 3}, "4 attention heads do not divide into 3 groups"),
        ({"rope_scaling": {"type": "yarn", "factor": 16, "attention_factor": 2.0}}, "attention_factor is not 1"),
        (
            {"rope_parameters": {"main": {"rope_type": "linear", "factor": 2.0}, "compress": {"rope_type": "default"}}},
            "rope_type 'linear' in layers that see a window",
        ),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(released, tmp_path, config, message):
    with pytest.raises(PlanError, match=message):
        translate(changed(released, tmp_path / "hf", config), Naming.GGML)


def test_heads_as_wide_as_those_of_the_indexer_are_refused(released, tmp_path):
    """llama.cpp b11549 divides by zero when it loads such a model."""
    tensors = load_file(released / "model.safetensors")
    wider = {}
    for name, tensor in tensors.items():  # of 128 instead of 64, as heads are
        if (
            ".indexer.wq_b" in name
            or ".indexer.compressor.w" in name
            or name.endswith("indexer.compressor.norm.weight")
        ):
            wider[name] = tensor.repeat(2, *[1] * (tensor.ndim - 1))
        elif name.endswith("indexer.compressor.ape"):
            wider[name] = tensor.repeat(1, 2)
    source = changed(released, tmp_path / "hf", {"index_head_dim": 128}, tensors=wider)
    with pytest.raises(PlanError, match="head_dim and index_head_dim are both 128"):
        translate(source, Naming.GGML)


def test_rope_of_transformers_5_is_that_of_the_release(released, tmp_path):
    """`rope_parameters` for two kinds of layers, and `rope_scaling` with two bases."""
    both = {"main": {"rope_type": "default", "rope_theta": 5000.0}}
    both["compress"] = {"rope_type": "yarn", "rope_theta": 40000.0, "factor": 8.0, "attention_factor": 1.0}
    both["compress"]["original_max_position_embeddings"] = 256
    newer = changed(released, tmp_path / "newer", {"rope_parameters": both}, leave=("rope_scaling",))
    scaling = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}
    settings = {"rope_scaling": scaling, "rope_theta": 5000.0, "compress_rope_theta": 40000.0}
    older = changed(released, tmp_path / "older", settings)
    found = [translate(one, Naming.GGML).metadata for one in (newer, older)]
    keys = [{key: typed.value for key, typed in one.items() if "rope" in key} for one in found]
    assert keys[0] == keys[1]
    assert keys[0]["deepseek4.rope.freq_base"] == 5000 and keys[0]["deepseek4.rope.scaling.factor"] == 8
    assert keys[0]["deepseek4.attention.compress_rope_freq_base"] == 40000


def test_a_folder_keeps_what_a_gguf_says_of_layers(released, tmp_path):
    path = tmp_path / "model.gguf"
    to_gguf(released, path, "F32")
    execute(plan_conversion(Gguf().read(path), Safetensors(), tmp_path / "back", Request()))
    back = Safetensors().read(tmp_path / "back")
    said = json.loads((released / "config.json").read_text())
    for key in ("compress_ratios", "num_hash_layers", "compress_rope_theta", "swiglu_limit", "qk_rope_head_dim"):
        assert back.config[key] == said[key], key
    table = next(tensor for tensor in back.tensors if tensor.name == TABLE)
    source = next(tensor for tensor in Safetensors().read(released).tensors if tensor.name == TABLE)
    assert np.array_equal(values(table), values(source))


def test_whole_numbers_are_compared(released, tmp_path):
    """`requant diff` of a folder beside its GGUF, 64 bits beside 32; and of one whose table is another."""
    to_gguf(released, tmp_path / "model.gguf", "F32")
    table = load_file(released / "model.safetensors")[TABLE]
    other = changed(released, tmp_path / "other", tensors={TABLE: (table + 1) % 8})
    ggml = Gguf().read(tmp_path / "model.gguf")
    for folder, differing in ((Safetensors().read(released), 0), (other, table.numel())):
        found = with_numbers(compare(("safetensors", folder), ("gguf", ggml)), 2)
        row = next(row for row in found.rows if row.name == "blk.0.ffn_gate_tid2eid.weight" or row.name == TABLE)
        assert row.numbers.values == table.numel() and row.numbers.changed == differing
