"""EuroBERT, and Jina's embeddings v5 made of it: a llama that looks to both sides.

Facts: llama.cpp's conversion/bert.py, src/models/eurobert.cpp; transformers' modeling_eurobert.py.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import SIZES, UNSCALED, rms_norm_eps
from requant.architectures.llama import BUFFERS, HEAD_KEYS, MLP, NORMS, SILU, TRUNK, attention
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Ignored, Key, Order, always

EUROBERT: Final = Family(
    model_type="eurobert",
    ggml="eurobert",
    classes=("EuroBertModel", "EuroBertForMaskedLM", "JinaEmbeddingsV5Model"),
    headless=frozenset(),
    bases=("", "model."),
    rules=(*TRUNK[:2], *NORMS, *attention(Order.SAME), *MLP),
    keys=(
        *SIZES,
        rms_norm_eps(1e-5),
        *HEAD_KEYS,
        UNSCALED,
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
    ),
    ignored=(
        *BUFFERS,
        Ignored(r"lm_head\..*", "a pre-training head, which embeddings do not need", lost=True),
    ),
    irregular=(Rope(theta=10000.0).pair(),),
    tied=True,
)
