"""DeepSeek V4 as it is published: experts have 4-bit floats in it, which are plain numbers of the same values here."""

import re
from collections.abc import Mapping
from typing import Final

import torch

from tests.published import Published, Tensors, random

#: Values of a 4-bit float, without signs.
E2M1: Final = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
#: The exponents of blocks of 32 columns, in turn.
_EXPONENTS: Final = (-4, -5)


def scales(columns: int) -> torch.Tensor:
    """[columns / 32]: exponents of the blocks of a row."""
    return torch.tensor([_EXPONENTS[block % 2] for block in range(columns // 32)])


def on_grid(value: torch.Tensor) -> torch.Tensor:
    """The values nearest to these that 4-bit floats have in blocks of these exponents."""
    steps = 2.0 ** scales(value.shape[-1]).repeat_interleave(32)
    nearest = E2M1[(value.abs() / steps).unsqueeze(-1).sub(E2M1).abs().argmin(-1)]
    return nearest * steps * value.sign() + 0.0  # without a negative zero


def packed(tensors: Tensors) -> Tensors:
    """The experts as the release stores them: two 4-bit floats in a byte, the first in the low bits, and exponents."""
    found = {}
    for name, value in tensors.items():
        if ".experts." not in name:
            found[name] = value
            continue
        exponents = scales(value.shape[-1])
        elements = value / 2.0 ** exponents.repeat_interleave(32)
        codes = (elements.abs().unsqueeze(-1) == E2M1).int().argmax(-1) + 8 * (elements < 0)
        found[name] = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
        biased = (exponents + 127).to(torch.uint8).repeat(len(value), 1)
        found[name.removesuffix("weight") + "scale"] = biased.view(torch.float8_e8m0fnu)
    return found


#: What the release has besides: a choice of experts for pictures, one that nothing uses, a layer that predicts ahead.
_MORE: Final = {
    **{f"layers.{n}.ffn.gate.bias_vl": (8,) for n in range(5)},
    "layers.0.ffn.gate.bias": (8,),
    "mtp.0.norm.weight": (64,),
}


def _with_more(tensors: Tensors) -> Tensors:
    return tensors | {name: random(name, shape) for name, shape in _MORE.items()}


#: Sizes that transformers and the release call the same.
STREAMED: Final = {
    "num_hidden_layers": 5,
    "moe_intermediate_size": 64,
    "head_dim": 128,
    "q_lora_rank": 32,
    "o_groups": 2,
    "o_lora_rank": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    # of a few heads, scores of tokens would be 0 for several of them, and none better than another
    "index_n_heads": 32,
    "index_head_dim": 64,
    "index_topk": 16,
    "sliding_window": 40,
    "swiglu_limit": 1.5,
    "rms_norm_eps": 1e-6,
}
STREAMED_YARN: Final = {
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 512,
}
#: As config.json of the release says them.
_RELEASED: Final = {
    **STREAMED,
    "compress_ratios": [0, 4, 128, 4, 0],
    "num_hash_layers": 1,
    "qk_rope_head_dim": 32,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "compress_rope_theta": 160000.0,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.5,
    "n_shared_experts": 1,
}

STREAMS: Final[Mapping[str, Published]] = {
    "deepseek4-release": Published(
        {
            **_RELEASED,
            # the layer that predicts ahead is counted, too
            "compress_ratios": [*_RELEASED["compress_ratios"], 0],
            "architectures": ["DeepseekV4ForCausalLM"],
            "model_type": "deepseek_v4",
            "vocab_size": 96,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "rope_scaling": {**STREAMED_YARN, "type": "yarn"},
            "scoring_func": "sqrtsoftplus",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
        },
        twin=(
            "DeepseekV4ForCausalLM",
            "DeepseekV4Config",
            {**_RELEASED, "rope_parameters": {**STREAMED_YARN, "rope_type": "yarn"}},
        ),
        renamed=(
            (r"^model\.embed_tokens\.", "embed."),
            (r"^model\.hc_head\.hc_", "hc_head_"),
            (r"\.attn\.norm\.", ".attn.kv_norm."),
            (r"^model\.", ""),
        ),
        changed=_with_more,
    ),
}


def as_released(name: str) -> str:
    """A tensor's name in the release; transformers saves a few by others."""
    for pattern, new in STREAMS["deepseek4-release"].renamed:
        name = re.sub(pattern, new, name)
    return name
