"""The dtype of a folder made of a GGUF is the family's own: transformers computes in it, and F16 may be too small."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
import transformers

from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from requant.verify.llama_cpp import LlamaCpp
from tests.test_heads import SMALL, TEXT, saved


def gguf_of(folder, path, recipe):
    execute(plan_conversion(Safetensors().read(folder), Gguf(), path, Request(recipe, vocabulary=False)))
    return path


def folder_of(path, folder, recipe=None):
    execute(plan_conversion(Gguf().read(path), Safetensors(), folder, Request(recipe)))
    return folder


def logits(folder, **dtype):
    with contextlib.redirect_stderr(io.StringIO()):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **dtype).eval()
    with torch.inference_mode():
        return model(torch.tensor([TEXT])).logits[0].float().numpy()


@pytest.mark.parametrize("recipe", ["Q8_0", "F16"])
def test_gemma3_does_not_overflow(recipe, tmp_path):
    """As the published models do: their residual stream grows past 65,504, the largest number of F16."""
    sizes = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
    model = saved(tmp_path / "hf", "Gemma3ForCausalLM", "Gemma3TextConfig", **sizes)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_feedforward_layernorm.weight.fill_(40000.0)
    model.save_pretrained(tmp_path / "hf")
    path = gguf_of(tmp_path / "hf", tmp_path / "m.gguf", recipe)
    back = folder_of(path, tmp_path / "back")
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert not np.isfinite(logits(back, dtype=torch.float16)).all()
    assert np.isfinite(logits(back)).all()
    ours = logits(back, dtype=torch.float32)
    with LlamaCpp(path, n_ctx=64, precise=True) as runtime:
        theirs = runtime.logits(TEXT)
    assert np.abs(ours - theirs).max() <= 0.02 * np.ptp(theirs)


TYPES = [
    ("LlamaForCausalLM", "LlamaConfig", {}, "BF16"),
    ("Qwen2ForCausalLM", "Qwen2Config", {}, "BF16"),
    ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32}, "BF16"),
    ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}, "F16"),
]


@pytest.mark.parametrize(("model", "config", "more", "half"), TYPES)
def test_blocks_become_what_the_family_is_released_in(model, config, more, half, tmp_path):
    saved(tmp_path / "hf", model, config, **more)
    back = folder_of(gguf_of(tmp_path / "hf", tmp_path / "m.gguf", "Q8_0"), tmp_path / "back")
    types = {t.encoding.label for t in Safetensors().read(back).tensors if t.shape == (SMALL["vocab_size"], 64)}
    assert types == {half}


def test_f16_keeps_its_bytes(tmp_path):
    saved(tmp_path / "hf", "LlamaForCausalLM", "LlamaConfig")
    back = folder_of(gguf_of(tmp_path / "hf", tmp_path / "m.gguf", "F16"), tmp_path / "back")
    assert {t.encoding.label for t in Safetensors().read(back).tensors if len(t.shape) == 2} == {"F16"}
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "float16"
