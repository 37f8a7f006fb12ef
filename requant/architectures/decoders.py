"""What families of llama-like decoders are put together from, besides the rows of `llama`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.changes import Change
from requant.architectures.llama import BUFFERS, DECODER_KEYS, MLP, SILU, TRUNK, attention
from requant.architectures.rules import (
    Assumption,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    always,
    module,
    same_as,
)

LAYER: Final = "{base}layers.{n}."
ATTN: Final = LAYER + "self_attn."

#: GGUF keys that llama.cpp's converter repeats for some architectures, and which config.json has under another name.
VOCABULARY_SIZE: Final = Key((), "vocab_size", "u32", default=same_as("vocab_size"), implied=same_as("vocabulary"))

#: llama.cpp's converter says of some architectures that nothing scales their rotation.
UNSCALED: Final = Key((), "rope.scaling.type", "str", default=always("none"))
#: llama.cpp has no output head for some architectures but the embedding.
TIED: Final = Assumption("tie_word_embeddings", (True,), True, written=False)


def decoder(
    stem: str,
    model_type: str,
    ggml: str,
    rules: Sequence[Rule],
    keys: Sequence[Key],
    irregular: Sequence[Irregular],
    *,
    assumptions: Sequence[Assumption] = (SILU,),
    tied: bool = False,
    more: Sequence[str] = (),
    other_types: Sequence[str] = (),
    flags: Sequence[tuple[str, bool]] = (),
    outgrows_f16: bool = False,
) -> Family:
    """A causal decoder as transformers names one: `{stem}ForCausalLM` with an output head, `{stem}Model` without.

    more: other class names. flags, other_types, outgrows_f16: see `Family`.
    """
    return Family(
        model_type=model_type,
        ggml=ggml,
        classes=(f"{stem}ForCausalLM", f"{stem}Model", *more),
        other_types=tuple(other_types),
        headless=frozenset({f"{stem}Model"}),
        bases=("model.", ""),
        rules=tuple(rules),
        keys=tuple(keys),
        embedding="token_embd.weight",
        assumptions=tuple(assumptions),
        flags=dict(flags),
        ignored=BUFFERS,
        irregular=tuple(irregular),
        tied=tied,
        outgrows_f16=outgrows_f16,
    )


def shifted(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same, with norms that HF keeps as offsets from one."""
    return tuple(replace(rule, add=1.0) if rule.ggml.endswith("norm.weight") else rule for rule in rules)


def norm(hf: str, ggml: str, size: str = "hidden", *, bias: bool = False, when: str = "") -> tuple[Rule, ...]:
    """A norm: its weight, and a bias where it has one."""
    return module(hf, ggml, (size,), bias=bias, when=when)


def layer_norm_eps(*hf: str, default: float = 1e-5) -> Key:
    """The epsilon of norms that take the mean away."""
    return Key(hf, "attention.layer_norm_epsilon", "f32", default=always(default))


def rms_norm_eps(default: float) -> Key:
    """The epsilon of norms that do not."""
    return replace(DECODER_KEYS[-1], default=always(default))


#: Hyperparameters that decoders share whatever their norms are.
SIZES: Final = DECODER_KEYS[:-1]
#: A feed-forward network without a gate.
PLAIN_MLP: Final = MLP[1:]
PLAIN_MLP_BIASES: Final = (
    Rule(LAYER + "mlp.up_proj.bias", "blk.{n}.ffn_up.bias", ("ffn",), when="mlp_bias"),
    Rule(LAYER + "mlp.down_proj.bias", "blk.{n}.ffn_down.bias", ("hidden",), when="mlp_bias"),
)
#: Norms before attention and before the feed-forward network, with biases.
BIASED_NORMS: Final = (
    *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm", bias=True),
    *norm(LAYER + "post_attention_layernorm", "blk.{n}.ffn_norm", bias=True),
)
#: Norms behind attention and behind the feed-forward network, on what they add.
OUTER_NORMS: Final = (
    *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
    *norm(LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm"),
)


def head_norms(q: str = "head", k: str = "head") -> tuple[Rule, ...]:
    """Norms of q and k: of each head, or of all heads together."""
    return (*norm(ATTN + "q_norm", "blk.{n}.attn_q_norm", q), *norm(ATTN + "k_norm", "blk.{n}.attn_k_norm", k))


def trunk(order: Order = Order.SAME) -> tuple[Rule, ...]:
    """Embedding, last norm, head and the four projections, q and k in `order`."""
    return (*TRUNK, *attention(order))


def fused(hf: str, order: Order, *changes: Change) -> tuple[Rule, ...]:
    """Queries, keys and values that are one matrix in HF: in this order, after `changes`."""
    found = []
    for turn, (part, rows, heads) in enumerate((("q", "q", "heads"), ("k", "kv", "kv_heads"), ("v", "kv", ""))):
        rule = Rule(
            hf,
            f"blk.{{n}}.attn_{part}.weight",
            ("qkv", "hidden"),
            order if heads else Order.SAME,
            heads or "heads",
            turn=turn,
            changes=changes,
            among=("q", "kv", "kv"),
        )
        found.append(replace(rule, flat=(rows, "hidden")))
    return tuple(found)
