"""A Hugging Face folder small enough to be made in a test: a llama of 0.9 M random weights, byte-level vocabulary."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN, HEADS, KV_HEADS, MIDDLE, LAYERS = 256, 4, 2, 512, 2
SPECIAL = ["<s>", "</s>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("Ġ", "a")]


def write_tokenizer(folder: Path, more: Sequence[str] = ()) -> int:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE with a few merges; its size.

    more: special tokens besides the usual ones, behind which they come.
    """
    special = [*SPECIAL, *more]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def weights(vocabulary: int, dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of the model, tied output."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * 0.05).to(dtype)

    head = HIDDEN // HEADS
    tensors = {"model.embed_tokens.weight": random(vocabulary, HIDDEN), "model.norm.weight": 1 + random(HIDDEN)}
    for layer in range(LAYERS):
        shapes = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (MIDDLE, HIDDEN),
            "mlp.up_proj": (MIDDLE, HIDDEN),
            "mlp.down_proj": (HIDDEN, MIDDLE),
        }
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = random(*shape)
    return tensors


def write_tiny_folder(folder: Path, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """The whole folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights(vocabulary, dtype, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
