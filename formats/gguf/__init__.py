"""GGUF: typed key-values, tensor infos, aligned data."""
