"""T5, mT5 and UMT5: an encoder and a decoder in one file, and T5's encoder alone. Biases of distances take the place of
positions: in the first layer of each stack, or (UMT5) in every one.

llama.cpp does not scale what a decoder whose head is the embedding predicts: which token is likeliest stays, how much
likelier does not. Facts: llama.cpp's conversion/t5.py and src/models/t5.cpp; transformers' modeling_t5.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
    unsaid,
)
from requant.encodings import F16
from requant.ir import Checkpoint, Json, Tensor
from requant.losses import Loss, LossKind


def _attention(stack: str, number: int, module: str, ggml: str) -> tuple[Rule, ...]:
    """A norm, and the four projections behind it. stack: `encoder` or `decoder`; number: of the part of a layer."""
    part = f"{stack}.block.{{n}}.layer.{number}."
    block = f"{stack[:3]}.blk.{{n}}.{ggml}"
    names = (("q", "q", "hidden"), ("k", "q", "hidden"), ("v", "q", "hidden"), ("o", "hidden", "q"))
    return (
        Rule(f"{part}layer_norm.weight", f"{block}attn_norm.weight", ("hidden",), when=stack),
        *(
            Rule(f"{part}{module}.{name}.weight", f"{block}attn_{name}.weight", shape, when=stack)
            for name, *pair in names
            for shape in [(pair[0], pair[1])]
        ),
    )


def _distances(stack: str, layers: str) -> Rule:
    """layers: the flag of those that have biases of their own."""
    hf = f"{stack}.block.{{n}}.layer.0.SelfAttention.relative_attention_bias.weight"
    return Rule(hf, f"{stack[:3]}.blk.{{n}}.attn_rel_b.weight", ("buckets", "heads"), when=f"{stack}{layers}")


def _network(stack: str, number: int) -> tuple[Rule, ...]:
    part = f"{stack}.block.{{n}}.layer.{number}."
    dense, block = f"{part}DenseReluDense.", f"{stack[:3]}.blk.{{n}}.ffn_"
    return (
        Rule(f"{part}layer_norm.weight", f"{block}norm.weight", ("hidden",), when=stack),
        Rule(f"{dense}wi_0.weight", f"{block}gate.weight", ("ffn", "hidden"), when=f"{stack}+gated"),
        Rule(f"{dense}wi_1.weight", f"{block}up.weight", ("ffn", "hidden"), when=f"{stack}+gated"),
        Rule(f"{dense}wi.weight", f"{block}up.weight", ("ffn", "hidden"), when=f"{stack}+!gated"),
        Rule(f"{dense}wo.weight", f"{block}down.weight", ("hidden", "ffn"), when=stack),
    )


_ENCODER: Final = (
    Rule("shared.weight", "token_embd.weight", ("vocab", "hidden")),
    *_attention("encoder", 0, "SelfAttention", ""),
    *_network("encoder", 1),
    Rule("encoder.final_layer_norm.weight", "enc.output_norm.weight", ("hidden",)),
)
_DECODER: Final = (
    *_attention("decoder", 0, "SelfAttention", ""),
    *_attention("decoder", 1, "EncDecAttention", "cross_"),
    *_network("decoder", 2),
    Rule("decoder.final_layer_norm.weight", "dec.output_norm.weight", ("hidden",)),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
)


def _below(*names: str) -> Callable[[Config], Sequence[bool]]:
    """Which layers a stack has; the counts are of both."""

    def told(values: Config) -> Sequence[bool]:
        counts = [values.get("block_count"), values.get("decoder_block_count", 0)]
        numbers = [count if isinstance(count, int) else 0 for count in counts]
        own = next((values[name] for name in names if isinstance(values.get(name), int)), 0)
        return [n < int(str(own)) for n in range(min(max(numbers), 1 << 16))]

    return told


def _first(values: Config) -> Sequence[bool]:
    return [n == 0 for n in range(len(_below("block_count")(values)))]


_KEYS: Final = (
    Key(("num_layers",), "block_count", "u32", always(6)),
    Key(("n_positions",), "context_length", "u32", always(512)),
    Key(("d_model",), "embedding_length", "u32", always(512)),
    Key(("d_ff",), "feed_forward_length", "u32", always(2048)),
    Key(("num_heads",), "attention.head_count", "u32", always(8)),
    Key(("d_kv",), "attention.key_length", "u32", always(64)),
    Key((), "attention.value_length", "u32", same_as("d_kv"), same_as("attention.key_length")),
    Key(("layer_norm_epsilon",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
    # as the converter writes it; unread by llama.cpp here
    Key((), "attention.layer_norm_epsilon", "f32", same_as("layer_norm_epsilon")),
    Key(("relative_attention_num_buckets",), "attention.relative_buckets_count", "u32", always(32)),
)


def _told(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if not config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)):
        return ToGgml()
    detail = "a head that is the embedding: llama.cpp does not divide what it predicts by the root of the width"
    return ToGgml(losses=(Loss(LossKind.METADATA_DROPPED, "scale_decoder_outputs", detail),))


def _network_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    gated = any(name.startswith("enc.blk.0.ffn_gate.") for name in tensors)
    said: Json = "gated-gelu" if gated else "relu"
    return ToHf({"feed_forward_proj": said})


T5_ENCODER: Final = Family(
    model_type="t5",
    ggml="t5encoder",
    classes=("T5EncoderModel",),
    headless=frozenset({"T5EncoderModel"}),
    bases=("",),
    rules=(*_ENCODER, _distances("encoder", "+first")),
    # the converter leaves it to the caller to say so; llama.cpp heeds it, too
    keys=(*_KEYS, Key((), "attention.causal", "bool", always(False), always(False))),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("feed_forward_proj", ("relu", "gated-gelu"), "relu", written=False),
        Assumption("relative_attention_max_distance", (128,), 128),
    ),
    present={"gated": r"\.DenseReluDense\.wi_0\.weight"},
    layers={"encoder": _below("block_count"), "first": _first},
    ignored=(Ignored(r"(encoder|decoder)\.embed_tokens\.weight", "the embedding once more"),),
    irregular=(Irregular(unsaid, _network_back),),
    tied=True,
    half=F16,
    other_types=("mt5", "umt5"),
)

UMT5: Final = replace(
    T5_ENCODER,
    model_type="umt5",
    ggml="t5",
    classes=("UMT5ForConditionalGeneration", "UMT5Model"),
    headless=frozenset({"UMT5Model"}),
    rules=(*_ENCODER, *_DECODER, _distances("encoder", ""), _distances("decoder", "")),
    keys=(
        *_KEYS,
        Key(("num_decoder_layers",), "decoder_block_count", "u32", same_as("num_layers"), same_as("block_count")),
        Key(("decoder_start_token_id",), "decoder_start_token_id", "u32", always(0), always(0)),
    ),
    layers={**T5_ENCODER.layers, "decoder": _below("decoder_block_count", "block_count")},
    ignored=(
        *T5_ENCODER.ignored,
        Ignored(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight", "no one reads it"),
    ),
    irregular=(Irregular(_told, _network_back),),
    other_types=(),
)
T5: Final = replace(
    UMT5,
    model_type="t5",
    rules=(*_ENCODER, *_DECODER, _distances("encoder", "+first"), _distances("decoder", "+first")),
    classes=("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "T5WithLMHeadModel"),
    headless=frozenset(),
    other_types=("mt5",),
    lacks="enc.blk.1.attn_rel_b.weight",
)
