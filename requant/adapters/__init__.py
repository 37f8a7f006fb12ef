"""Adapters: what was trained on top of a model, to be put on it, or to be written as a file of its own.

`config` and `peft` read what PEFT saves, `ggml` what llama.cpp's converter writes; both say it as a list of changes
(`changes`). `applied` puts them on a model's tensors, `written` makes the GGUF that llama.cpp loads beside a model, and
`extracted` finds an adapter between two models.
"""
