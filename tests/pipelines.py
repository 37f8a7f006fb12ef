"""What pipelines are tried on: a tiny llama, an adapter of PEFT's for it, and a recipe of all kinds of stages."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tiny_folder import HIDDEN, LAYERS, write_tiny_folder

RECIPE = """\
inputs: {model: ./tiny, adapter: ./adapter, output: out.gguf, to: Q4_K_M}
model: $model
stages:
  - prune: {sparsity: "2:4"}
  - merge: previous+$adapter
  - quantize: {to: $to}
  - check: {prompt: "the", predict: 4, ctx: 64, chunks: 1, text: text.txt}
output: $output
"""
CALIBRATED = RECIPE.replace("  - quantize", "  - calibrate: {tokens: 128, ctx: 64, text: text.txt}\n  - quantize")
SIZED = RECIPE.replace(
    "  - quantize: {to: $to}",
    "  - calibrate: {tokens: 1024, ctx: 64, text: text.txt, gradients: true}\n"
    "  - quantize: {to: $to, target_bpw: 6.5, smooth: true}",
)


def write_adapter(folder: Path, rank: int = 4) -> Path:
    """An adapter for the query projections of the tiny folder."""
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(5)
    tensors = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, HIDDEN, generator=rng) * 0.05
        tensors[f"{name}.lora_B.weight"] = torch.randn(HIDDEN, rank, generator=rng) * 0.05
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiny"}))
    return folder


def write_all(folder: Path) -> Path:
    """Models, text and recipes in a folder."""
    write_tiny_folder(folder / "tiny")
    write_adapter(folder / "adapter")
    (folder / "text.txt").write_text(
        "The rain in Spain stays mainly in the plain, and then another thing began. " * 100
    )
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "calibrated.yaml").write_text(CALIBRATED)
    (folder / "sized.yaml").write_text(SIZED)
    return folder
