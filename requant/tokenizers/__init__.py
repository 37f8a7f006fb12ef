"""Tokenizers: HF files to GGUF's `tokenizer.*` metadata and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requant.tokenizers.ggml import TokenizerOutcome, to_ggml
    from requant.tokenizers.hf import HfTokenizer, to_hf

__all__ = ["HfTokenizer", "TokenizerOutcome", "to_ggml", "to_hf"]


def __getattr__(name: str) -> object:
    """Imported when used: who only looks at the keys of a GGUF needs none of it."""
    if name in ("TokenizerOutcome", "to_ggml"):
        from requant.tokenizers import ggml

        return getattr(ggml, name)
    if name in ("HfTokenizer", "to_hf"):
        from requant.tokenizers import hf

        return getattr(hf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
