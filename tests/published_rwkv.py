"""RWKV 7 by its shapes, and what it computes, token after token, in numpy: arXiv 2503.14456, section 4."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tests.published import Published, Tensors

_LAYER: Final = "model.layers.{n}."
_VECTORS: Final = ("norm.weight", "norm.bias", *(f"layers.0.pre_norm.{kind}" for kind in ("weight", "bias")))


def _without_values(tensors: Tensors) -> Tensors:
    """The first layer mixes no values."""
    return {name: value for name, value in tensors.items() if ".layers.0.attn.v_lora." not in name}


def _mixture(letter: str) -> dict[str, tuple[int, ...]]:
    module = f"{_LAYER}attn.{letter}_lora.lora."
    found: dict[str, tuple[int, ...]] = {module + "0.weight": (32, 128), module + "2.weight": (128, 32)}
    return found if letter == "g" else {**found, module + "2.bias": (128,)}


RWKV: Final[Mapping[str, Published]] = {
    "rwkv7": Published(
        {
            "architectures": ["RWKV7ForCausalLM"],
            "model_type": "rwkv7",
            "vocab_size": 96,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "head_dim": 64,
            "num_heads": 2,
            "norm_eps": 1e-5,
            "norm_bias": True,
            "norm_first": True,
            "hidden_act": "sqrelu",
            "attn": None,
            "decay_low_rank_dim": 32,
            "a_low_rank_dim": 32,
            "v_low_rank_dim": 32,
            "gate_low_rank_dim": 32,
            "tie_word_embeddings": False,
        },
        shapes={
            "model.embeddings.weight": (96, 128),
            "lm_head.weight": (96, 128),
            **{f"model.{name}": (128,) for name in _VECTORS},
            **{
                f"{_LAYER}{name}.{kind}": (128,)
                for name in ("attn_norm", "ffn_norm", "attn.g_norm")
                for kind in ("weight", "bias")
            },
            **{f"{_LAYER}attn.x_{letter}": (1, 1, 128) for letter in "rwkvag"},
            **{f"{_LAYER}attn.{name}": (128,) for name in ("k_k", "k_a")},
            _LAYER + "attn.r_k": (2, 64),
            **{f"{_LAYER}attn.{part}_proj.weight": (128, 128) for part in "rkvo"},
            **{name: shape for letter in "wavg" for name, shape in _mixture(letter).items()},
            _LAYER + "ffn.x_k": (128,),
            _LAYER + "ffn.key.weight": (256, 128),
            _LAYER + "ffn.value.weight": (128, 256),
        },
        changed=_without_values,
    )
}


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _normed(x: Any, weight: Any, bias: Any, epsilon: float = 1e-5) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * weight + bias


def logits(tensors: Mapping[str, Any], tokens: Sequence[int], heads: int = 2) -> Any:
    """[tokens, vocabulary] in float64. tensors: by name, as numpy arrays."""
    t = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in t if name.startswith("model.layers."))
    width = t["model.embeddings.weight"].shape[1]
    head = width // heads
    states = [np.zeros((heads, head, head)) for _ in range(layers)]
    before = [[np.zeros(width), np.zeros(width)] for _ in range(layers)]
    found = []
    for token in tokens:
        x = _normed(
            t["model.embeddings.weight"][token], *(t[f"model.layers.0.pre_norm.{k}"] for k in ("weight", "bias"))
        )
        first = None
        for n in range(layers):
            of = {
                name.removeprefix(f"model.layers.{n}."): v
                for name, v in t.items()
                if name.startswith(f"model.layers.{n}.")
            }
            a = {name.removeprefix("attn."): v for name, v in of.items() if name.startswith("attn.")}

            def low(letter: str, y: Any, inner: Any = lambda z: z, a: Any = a) -> Any:
                y = a[f"{letter}_lora.lora.2.weight"] @ inner(a[f"{letter}_lora.lora.0.weight"] @ y)
                return y + a.get(f"{letter}_lora.lora.2.bias", 0)

            y = _normed(x, of["attn_norm.weight"], of["attn_norm.bias"])
            mixed = {letter: y + (before[n][0] - y) * a[f"x_{letter}"].ravel() for letter in "rwkvag"}
            before[n][0] = y
            r, k, v = (a[f"{part}_proj.weight"] @ mixed[part] for part in "rkv")
            decay = np.exp(-np.exp(-0.5) * _sigmoid(low("w", mixed["w"], np.tanh)))
            if first is None:
                first = v
            else:
                v = v + (first - v) * _sigmoid(low("v", mixed["v"]))
            rate, gate = _sigmoid(low("a", mixed["a"])), low("g", mixed["g"], _sigmoid)
            removal = (k * a["k_k"]).reshape(heads, head)
            removal = removal / np.maximum(np.linalg.norm(removal, axis=1, keepdims=True), 1e-12)
            k = k * (1 + (rate - 1) * a["k_a"])
            r, k, v, decay, rate = (z.reshape(heads, head) for z in (r, k, v, decay, rate))
            # S ← S (diag(w) - κ̂ᵀ (a ⊙ κ̂)) + vᵀ k
            taken = np.einsum("hvk,hk->hv", states[n], removal)
            states[n] = states[n] * decay[:, None] - taken[:, :, None] * (rate * removal)[:, None]
            states[n] = states[n] + v[:, :, None] * k[:, None]
            out = np.einsum("hvk,hk->hv", states[n], r)
            norm = (a[f"g_norm.{kind}"].reshape(heads, head) for kind in ("weight", "bias"))
            out = _normed(out, *norm, epsilon=64e-5) + (r * k * a["r_k"]).sum(1, keepdims=True) * v
            x = x + a["o_proj.weight"] @ (out.ravel() * gate)
            y = _normed(x, of["ffn_norm.weight"], of["ffn_norm.bias"])
            forward = of["ffn.key.weight"] @ (y + (before[n][1] - y) * of["ffn.x_k"])
            before[n][1] = y
            x = x + of["ffn.value.weight"] @ np.maximum(forward, 0) ** 2
        found.append(t["lm_head.weight"] @ _normed(x, t["model.norm.weight"], t["model.norm.bias"]))
    return np.array(found)
