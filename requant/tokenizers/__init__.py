"""Tokenizers: one description, read from and written to HF files and GGUF metadata."""
