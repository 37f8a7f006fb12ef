"""config.json of folders that we write, read by transformers 4.57, transformers 5.23 and mlx-lm 0.32: the same logits.

What a reader does not find under the name that it knows is no error, but another model: half of the families below
computed something else in transformers 4 when only `rope_parameters` said where positions turn. Every reader runs in a
process of its own, once for all folders.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests import tiny_models
from tests.models import consumer, transformers_4

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FAMILIES = (
    *("llama", "llama-linear", "llama-llama3", "llama-yarn", "llama-longrope", "mistral-window", "mixtral", "qwen2"),
    *("qwen2-yarn", "qwen2moe", "qwen3", "qwen3moe", "gemma3", "phi3-partial", "phi3-longrope", "phi2", "stablelm"),
    *("olmo2", "olmo3", "olmoe", "cohere", "cohere2", "glm4", "exaone4", "granite", "hunyuan", "gptoss", "gpt2"),
    *("dots1", "glm4moe"),
)
#: What mlx-lm computes otherwise or does not load, whatever config.json says: it takes the long factors of long rope
#: for every length, knows GPT-2 without the prefix only, and gpt-oss in MXFP4 only.
NOT_IN_MLX = {"llama-longrope", "phi3-longrope", "gpt2", "gptoss"}
#: Keys that mlx-lm wants and no GGUF has.
NOT_FROM_GGUF_IN_MLX = {"exaone4"}

_TRANSFORMERS = """
import sys, numpy, torch
from transformers import AutoModelForCausalLM, __version__
for folder in sys.argv[2:]:
    model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    left = [*said["missing_keys"], *said["unexpected_keys"], *said["mismatched_keys"]]
    assert not left and model.dtype == torch.float32, (folder, left, model.dtype)
    with torch.no_grad():
        logits = model.eval()(torch.arange(1, 33)[None]).logits[0].numpy()
    numpy.save(f"{folder}/{sys.argv[1]}.npy", logits)
print(__version__)
"""
_MLX = """
import sys, numpy, mlx.core
from pathlib import Path
from mlx_lm.utils import load_model
for folder in sys.argv[2:]:
    model, _ = load_model(Path(folder))
    model.eval()
    logits = model(mlx.core.arange(1, 33)[None]).astype(mlx.core.float32)
    numpy.save(f"{folder}/{sys.argv[1]}.npy", numpy.array(logits)[0])
print(mlx.core.__version__)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kind -> family -> folder: from a folder that transformers 5 saved, and from the GGUF made of that."""
    made = {"hf": {}, "gguf": {}}
    for family in FAMILIES:
        root = tmp_path_factory.mktemp(family)
        model = tiny_models.make(family, root / "source")
        with torch.no_grad():
            np.save(root / "wanted.npy", model(torch.arange(1, 33)[None]).logits[0].numpy())
        convert(root / "source", root / "hf", "safetensors")
        convert(root / "source", root / "m.gguf", "gguf")
        convert(root / "m.gguf", root / "gguf", "safetensors")
        for kind, found in made.items():
            found[family] = root / kind
    return made


def convert(source, destination, format_name):
    request = Request("F32", vocabulary=False)
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, request)
    execute(plan, Options(workers=2))


def compare(folders, script, name, families, path=""):
    """Logits of all folders as one library computes them; its version."""
    places = [str(folders[family]) for family in families]
    environment = {**os.environ, "PYTHONPATH": path} if path else os.environ
    command = [sys.executable, "-c", script, name, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    far = {}
    for family in families:
        wanted = np.load(folders[family].parent / "wanted.npy")
        ours = np.load(folders[family] / f"{name}.npy")
        off = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
        if off > 1e-3:
            far[family] = off
    assert far == {}
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_transformers_5_computes_the_same(folders, kind):
    assert compare(folders[kind], _TRANSFORMERS, "five", FAMILIES).startswith("5.")


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_transformers_4_computes_the_same(folders, kind):
    assert compare(folders[kind], _TRANSFORMERS, "four", FAMILIES, str(transformers_4())).startswith("4.57")


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_mlx_computes_the_same(folders, kind):
    consumer("mlx_lm")
    without = NOT_IN_MLX | (NOT_FROM_GGUF_IN_MLX if kind == "gguf" else set())
    families = [family for family in FAMILIES if family not in without]
    assert compare(folders[kind], _MLX, "mlx", families).startswith("0.32")


def test_transformers_5_alone_would_be_read_as_another_model_by_transformers_4(folders):
    """So the table is needed: what transformers 5 saved, as it is."""
    sources = {family: folders["hf"][family].parent / "source" for family in ("llama-llama3", "qwen2")}
    with pytest.raises(AssertionError, match="llama-llama3"):
        compare(sources, _TRANSFORMERS, "four", list(sources), str(transformers_4()))
    assert "rope_theta" not in json.loads((Path(sources["qwen2"]) / "config.json").read_text())
