"""llama.cpp's own multimodal code loads our projectors, and makes of a picture what transformers makes of it."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from tests import mtmd, seen
from tests.tiny_projectors import make

pytestmark = pytest.mark.skipif(not mtmd.installed(), reason=f"needs xllamacpp {mtmd.VERSION}")
#: A part of the range of the embeddings: what llama.cpp loses in F16 convolutions and tables of activations.
CLOSE = 2e-3
#: Where llama.cpp itself computes something else, and how much.
FAR = {
    # it puts the class token last, and adds the positions as if it were first
    "internvl": 0.06,
}


def run(mmproj, values, scratch):
    """The embeddings, from a process of their own."""
    np.save(scratch / "in.npy", values)
    command = [sys.executable, "-m", "tests.mtmd", str(mmproj), str(scratch / "in.npy"), str(scratch / "out.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(scratch / "out.npy")


def converted(folder, out, recipe="F32"):
    execute(plan_conversion(Safetensors().read(folder), Gguf(), out, Request(recipe, projector=True)))
    return out


def distance(ours, theirs):
    return np.abs(ours - theirs).max() / (theirs.max() - theirs.min())


def in_order(name, found, folder, width):
    """The tokens of the picture alone, row by row.

    width: tokens of a row. After each row but the last Pixtral has a token whose embedding is the text model's.
    """
    if name == "llama4":  # column by column
        return found.reshape(width, -1, found.shape[1]).transpose(1, 0, 2).reshape(found.shape)
    if name in ("pixtral", "mistral3"):
        table = next(array for key, array in load_file(folder / "model.safetensors").items() if "embed_tokens" in key)
        breaks = np.arange(len(found)) % (width + 1) == width
        assert np.array_equal(found[breaks], np.tile(table[12].float().numpy(), (breaks.sum(), 1)))
        return found[~breaks]
    return found


@pytest.mark.parametrize("name", seen.SIZES)
def test_embeddings(name, tmp_path):
    model = make(name, tmp_path / name)
    pixels = seen.picture(name)
    theirs = seen.features(name, model, pixels)
    found = run(converted(tmp_path / name, tmp_path / "mmproj.gguf"), pixels, tmp_path)
    ours = in_order(name, found, tmp_path / name, {"pixtral": 6, "mistral3": 3, "llama4": 2}.get(name, 0))
    assert ours.shape == theirs.shape
    far = distance(ours, theirs)
    assert far < FAR.get(name, CLOSE)
    assert name not in FAR or far > 2e-2, "llama.cpp may have mended it"
