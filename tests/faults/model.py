"""A model of 20 kB, and what a folder holds of it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.tiny_folder import write_tokenizer

WIDTH, MIDDLE = 16, 32


def write_model(folder: Path, seed: int) -> Path:
    """A llama of one layer, in BF16."""
    folder.mkdir()
    vocabulary = write_tokenizer(folder)
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens": (vocabulary, WIDTH), "model.norm": (WIDTH,)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}"] = (WIDTH,)
    for name in "qkvo":
        shapes[f"model.layers.0.self_attn.{name}_proj"] = (WIDTH, WIDTH)
    for name in ("gate", "up"):
        shapes[f"model.layers.0.mlp.{name}_proj"] = (MIDDLE, WIDTH)
    shapes["model.layers.0.mlp.down_proj"] = (WIDTH, MIDDLE)
    tensors = {
        f"{name}.weight": torch.from_numpy(rng.standard_normal(shape).astype("f4")).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64 + seed,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 64 + seed}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder: its name, and what it holds or where it leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
