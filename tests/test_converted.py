"""Real models become the files that llama.cpp's own converter writes: every tensor byte and every metadata value."""

import json
import shutil
from pathlib import Path

import pytest

from requant.execute import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from tests import models
from tests.gguf_digest import summary

GOLDENS = Path(__file__).parent.parent / "fixtures" / "converted"
TYPES = ("f16", "bf16", "q8_0")


def smollm2(scratch):
    """SmolLM2 as an HF folder."""
    folder = scratch / "SmolLM2-135M-Instruct"
    source = Gguf().read(models.smollm2())
    execute(plan_conversion(source, Safetensors(), folder, Request(recipe="BF16")))
    return folder


def minilm(scratch):
    """MiniLM under its own name, which is where the converter takes some metadata from."""
    return Path(shutil.copytree(models.minilm(), scratch / "all-MiniLM-L6-v2"))


FOLDERS = {"SmolLM2-135M-Instruct": smollm2, "all-MiniLM-L6-v2": minilm}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_same_files_as_the_converter_of_llama_cpp(name, tmp_path):
    folder = FOLDERS[name](tmp_path)
    for outtype in TYPES:
        golden = json.loads((GOLDENS / f"{name}-{outtype}.json").read_text())
        out = tmp_path / "out.gguf"
        execute(plan_conversion(Safetensors().read(folder), Gguf(), out, Request(recipe=outtype.upper())))
        ours = summary(out)
        assert ours["metadata"] == golden["metadata"]
        assert ours["tensors"] == golden["tensors"]
        out.unlink()
