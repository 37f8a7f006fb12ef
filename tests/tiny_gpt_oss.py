"""A tiny gpt-oss folder as OpenAI publishes the large ones: experts in MXFP4, the rest in BF16, o200k's tokenizer."""

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from requant.tokenizers.pre_tokenizers import GPT4O
from tests.tiny_models import make

SPECIAL: Final = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
)
_MERGES: Final = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("Ġ", "a")]
_LEVELS: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
QUANTIZATION: Final = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}


def blocks_and_scales(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., columns] float32 as MXFP4: bytes [..., blocks, 16] with the earlier number low, and exponents."""
    groups = weights.reshape(*weights.shape[:-1], -1, 32)
    exponents = np.floor(np.log2(np.abs(groups).max(axis=-1))) - 2
    scaled = groups / 2 ** exponents[..., None]
    codes = np.abs(np.abs(scaled)[..., None] - _LEVELS).argmin(axis=-1) + 8 * (scaled < 0)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8), (exponents + 127).astype(np.uint8)


def write_tokenizer(folder: Path) -> int:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE that splits as o200k does; its size."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in _MERGES]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, _MERGES, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(GPT4O), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens) + len(SPECIAL)


def write_tiny_gpt_oss(folder: Path) -> Path:
    """The whole folder; returns it."""
    folder.mkdir(parents=True)
    size = write_tokenizer(folder)
    make("gptoss-published", folder, dtype=torch.bfloat16, vocabulary=size)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        weights = np.ascontiguousarray(tensors.pop(name).float().numpy().swapaxes(-1, -2))
        blocks, scales = blocks_and_scales(weights)
        tensors |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": QUANTIZATION}
    ids = {"bos_token_id": size - len(SPECIAL), "pad_token_id": size - len(SPECIAL) + 1}
    config |= ids | {"eos_token_id": size - len(SPECIAL) + 2}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
