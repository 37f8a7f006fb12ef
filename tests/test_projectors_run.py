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
from tests.test_projectors import quick_first
from tests.tiny_projectors import MODELS, make

pytestmark = pytest.mark.skipif(not mtmd.installed(), reason=f"needs xllamacpp {mtmd.VERSION}")
#: A part of the range of the embeddings: what llama.cpp loses in F16 convolutions and tables of activations.
CLOSE = 2e-3
#: Where llama.cpp itself computes something else, and how much.
FAR = {
    # it puts the class token last, and adds the positions as if it were first
    "internvl": 0.06,
}
#: A little farther; why has not been looked for.
LESS_CLOSE = {"gemma4": 1e-2, "gemma4-hearing": 1e-2}


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


@pytest.mark.parametrize("name", quick_first(seen.SIZES))
def test_embeddings(name, tmp_path):
    model = make(name, tmp_path / name)
    pixels = seen.picture(name)
    theirs = seen.features(name, model, pixels)
    found = run(converted(tmp_path / name, tmp_path / "mmproj.gguf"), pixels, tmp_path)
    ours = in_order(name, found, tmp_path / name, {"pixtral": 6, "mistral3": 3, "llama4": 2}.get(name, 0))
    assert ours.shape == theirs.shape
    far = distance(ours, theirs)
    assert far < FAR.get(name, LESS_CLOSE.get(name, CLOSE))
    assert name not in FAR or far > 2e-2, "llama.cpp may have mended it"


@pytest.mark.parametrize("name", seen.SPECTRA)
def test_embeddings_of_sounds(name, tmp_path):
    model = make(name, tmp_path / name)
    sounds = seen.spectrogram(seen.SPECTRA[name])
    ours = run(converted(tmp_path / name, tmp_path / "mmproj.gguf"), sounds, tmp_path)
    theirs = seen.heard(name, model, sounds)
    assert ours.shape == theirs.shape
    assert distance(ours, theirs) < LESS_CLOSE.get(name, CLOSE)


#: Models of which transformers has no class, or another result by design, and the size of what they see (height, width,
#: 3) or hear (bins, frames).
ALONE = {
    "internvl-chat": (56, 56, 3),
    "kimi-vl": (56, 84, 3),
    "kimi-k2.5": (56, 84, 3),
    "glm-5v": (56, 84, 3),
    "cogvlm": (56, 56, 3),
    "ling3vl": (64, 96, 3),
    "glm5next": (56, 84, 3),
    "youtu-vl": (64, 96, 3),
    "dots.ocr": (56, 84, 3),
    "ultravox": (16, 80),
    "glm-asr": (16, 80),
    "meralion": (16, 72),
    "voxtral": (16, 80),  # of which llama.cpp averages pairs of moments, as transformers does not
}


@pytest.mark.parametrize("name", quick_first(ALONE))
def test_it_runs(name, tmp_path):
    """What it makes of an input is finite, and depends on it."""
    make(name, tmp_path / name)
    mmproj = converted(tmp_path / name, tmp_path / "mmproj.gguf", "F16")
    made = seen.spectrogram if len(ALONE[name]) == 2 else np.random.default_rng(7).random
    values = np.asarray(made(ALONE[name]), np.float32)
    first, second = (run(mmproj, array, tmp_path) for array in (values, values[::-1]))
    assert np.isfinite(first).all() and first.shape == second.shape and not np.allclose(first, second, atol=1e-3)


#: Other names of classes for what another is.
SAME = {"qwen4exp", "clef", "openjev", "pplx-decider", "sarashina2", "embeddinggemma2"}


def test_every_model_is_asked():
    assert {*seen.SIZES, *seen.SPECTRA, *ALONE, *SAME} == MODELS.keys()
