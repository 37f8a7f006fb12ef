"""Latent attention and experts in Mistral's own folders (Mistral Large 3): transformers' Mistral 4 by other names."""

import json
import re

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from requant.errors import UnsupportedError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from requant.operations.validate import validate
from requant.verify.llama_cpp import LlamaCpp
from tests.test_architectures_run import agree, to_gguf, tokens
from tests.tiny_models import make

NAMES = (
    (r"^model\.embed_tokens", "tok_embeddings"),
    (r"^lm_head", "output"),
    (r"^model\.", ""),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.(q_a|q_b|kv_b)_proj\.", r".attention.w\1."),
    (r"\.self_attn\.kv_a_proj_with_mqa\.", ".attention.wkv_a_with_mqa."),
    (r"\.self_attn\.(q_a|kv_a)_layernorm\.", r".attention.\1_norm."),
    (r"\.self_attn\.o_proj\.", ".attention.wo."),
    (r"\.mlp\.(gate|shared_experts)\.", r".\1."),
    (r"\.mlp\.(?=\w+_proj)", ".feed_forward."),
    *((rf"\.{part}_proj\.", f".w{n}.") for n, part in enumerate(("gate", "down", "up"), 1)),
)


@pytest.fixture
def large(tmp_path):
    """The model, as transformers saves it in `hf` and as Mistral publishes it in `own`."""
    model = make("mistral4", tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    tensors = {}
    for name, value in load_file(tmp_path / "hf/model.safetensors").items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        stack = re.fullmatch(r"(.*)\.mlp\.experts\.(gate_up|down)_proj", name)
        if not stack:
            tensors[name] = value
            continue
        for e, matrix in enumerate(value):
            parts = np.split(matrix, 2) if stack[2] == "gate_up" else [matrix]
            numbers = (1, 3) if stack[2] == "gate_up" else (2,)
            tensors |= {f"{stack[1]}.experts.{e}.w{n}.weight": part for n, part in zip(numbers, parts, strict=True)}
    rope = config["rope_parameters"]
    params = {
        "dim": 64,
        "n_layers": config["num_hidden_layers"],
        "head_dim": None,
        "hidden_dim": 96,
        "n_heads": 4,
        "n_kv_heads": 4,
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
        "rope_theta": rope["rope_theta"],
        "max_position_embeddings": 2048,
        "tied_embeddings": False,
        **{key: config[key] for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")},
        "v_head_dim": config["v_head_dim"],
        "yarn": {
            "original_max_position_embeddings": 512,
            "factor": 16.0,
            "alpha": 1.0,
            "beta": 32.0,
            "apply_scale": False,
        },
        "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 512},
        "moe": {
            "expert_parallel": 1,
            "expert_model_parallel": 1,
            "route_every_n": 1,
            "first_k_dense_replace": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "expert_hidden_dim": 48,
            "num_shared_experts": 2,
            "routed_scale": 1.0,
            "num_expert_groups": 1,
            "num_expert_groups_per_tok": 1,
        },
    }
    (tmp_path / "own").mkdir()
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        tmp_path / "own/consolidated.safetensors",
    )
    (tmp_path / "own/params.json").write_text(json.dumps(params))
    return model


def test_logits(large, tmp_path):
    path, text = to_gguf(tmp_path / "own", tmp_path / "model.gguf"), tokens(700)
    with LlamaCpp(path, n_ctx=len(text), precise=True) as runtime:
        ours = runtime.logits(text)
    with torch.inference_mode():
        theirs = large(torch.tensor([text])).logits[0].float().numpy()
    agree(ours, theirs)


def test_a_deepseek_of_llama_cpp(large, tmp_path):
    """Architecture, experts and keys are those of its converter's MistralMoeModel (b11549)."""
    reader = gguf.GGUFReader(to_gguf(tmp_path / "own", tmp_path / "model.gguf"))
    said = {key: field.contents() for key, field in reader.fields.items()}
    assert said["general.architecture"] == "deepseek2"
    expected = {
        "expert_gating_func": 1,
        "expert_weights_norm": True,
        "attention.temperature_length": 512,
        "rope.scaling.original_context_length": 512,
        "leading_dense_block_count": 1,
        "expert_shared_count": 2,
        "attention.head_count_kv": 1,
    }
    assert {key: said[f"deepseek2.{key}"] for key in expected} == expected
    assert said["deepseek2.attention.temperature_scale"] == pytest.approx(0.1)
    assert said["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)
    names = {tensor.name for tensor in reader.tensors}
    assert {f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up", "down")} <= names
    assert not any("gate_up" in name or "exp_probs" in name for name in names)


def test_the_gguf_becomes_a_folder_that_transformers_loads(large, tmp_path):
    path = to_gguf(tmp_path / "own", tmp_path / "model.gguf")
    for found in (validate(tmp_path / "own"), validate(path)):
        assert found.findings == [], found
    execute(plan_conversion(Gguf().read(path), Safetensors(), tmp_path / "back", Request()))
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    again = type(large).from_pretrained(tmp_path / "back").eval()
    text = torch.tensor([tokens(24)])
    with torch.inference_mode():
        assert torch.equal(again(text).logits, large(text).logits)


def test_a_folder_of_it_is_refused(large, tmp_path):
    with pytest.raises(UnsupportedError, match="stacks"):
        plan_conversion(Safetensors().read(tmp_path / "own"), Safetensors(), tmp_path / "out", Request("BF16"))


@pytest.mark.parametrize("change", [{"moe": None}, {"moe": {"route_every_n": 2}}])
def test_latent_attention_without_such_experts(change, large, tmp_path):
    path = tmp_path / "own/params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedError, match="latent attention"):
        Safetensors().read(tmp_path / "own")
