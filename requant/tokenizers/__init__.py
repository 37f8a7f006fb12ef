"""Tokenizers: HF files to GGUF's `tokenizer.*` metadata and back."""

from __future__ import annotations

from requant.tokenizers.ggml import TokenizerOutcome, to_ggml
from requant.tokenizers.hf import HfTokenizer, to_hf

__all__ = ["HfTokenizer", "TokenizerOutcome", "to_ggml", "to_hf"]
