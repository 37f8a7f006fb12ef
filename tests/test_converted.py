"""Models become the files that llama.cpp's own converter writes: every tensor byte and every metadata value."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from tests import models
from tests.gguf_digest import summary
from tests.tiny_gpt_oss import write_tiny_gpt_oss

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


def test_gpt_oss_as_published(tmp_path):
    """Experts in MXFP4 are taken apart without a code being touched; what llama.cpp does otherwise is told."""
    golden = json.loads((GOLDENS / "tiny-gpt-oss.json").read_text())
    source = Safetensors().read(write_tiny_gpt_oss(tmp_path / "tiny-gpt-oss"))
    plan = plan_conversion(source, Gguf(), tmp_path / "out.gguf", Request())
    experts = [step for step in plan.steps if "_exps.weight" in step.target.name]
    assert len(experts) == 6
    assert all(step.fidelity is Fidelity.REPACK and step.target.encoding.label == "MXFP4" for step in experts)
    assert [(loss.kind, loss.subject) for loss in plan.losses] == [
        (LossKind.METADATA_DROPPED, "rope_scaling.truncate"),
        (LossKind.TOKENIZER_CHANGED, "tokenizer.ggml.pre"),
    ]
    execute(plan)
    assert summary(tmp_path / "out.gguf") == golden


def as_mlx(tensors):
    """The experts as mlx-lm keeps them: gate and up apart, codes in words of 32 bits."""
    found = {}
    for name, array in tensors.items():
        for ending, kind in (("_blocks", "weight"), ("_scales", "scales"), ("_bias", "bias")):
            if ".experts." not in name or not name.endswith(ending):
                continue
            data = array.flatten(-2).view(torch.uint32) if kind == "weight" else array
            stem = name.removesuffix(ending)
            if stem.endswith("down_proj"):
                found[f"{stem}.{kind}"] = data
            else:
                for turn, part in enumerate(("gate_proj", "up_proj")):
                    found[f"{stem.removesuffix('gate_up_proj')}{part}.{kind}"] = data[:, turn::2].contiguous()
            break
        else:
            found[name] = array
    return found


def as_compressed(tensors):
    """The experts as compressed-tensors keeps them: one module each."""
    found = {}
    for name, array in as_mlx(tensors).items():
        if ".experts." not in name:
            found[name] = array
            continue
        module, part, kind = name.rsplit(".", 2)
        stored = {"weight": "weight_packed", "scales": "weight_scale", "bias": "bias"}[kind]
        for n, one in enumerate(array):
            found[f"{module}.{n}.{part}.{stored}"] = one.view(torch.uint8) if kind == "weight" else one
    return found


@pytest.mark.parametrize("form", [as_mlx, as_compressed])
def test_gpt_oss_of_other_libraries(form, tmp_path):
    """The same codes in other arrays become the same GGUF."""
    golden = json.loads((GOLDENS / "tiny-gpt-oss.json").read_text())
    folder = write_tiny_gpt_oss(tmp_path / "tiny-gpt-oss")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: array.contiguous() for name, array in form(load_file(folder / "model.safetensors")).items()}
    save_file(tensors, folder / "model.safetensors")
    plan = plan_conversion(Safetensors().read(folder), Gguf(), tmp_path / "out.gguf", Request())
    assert plan.fidelities()[Fidelity.ROUND] == 0
    execute(plan)
    assert summary(tmp_path / "out.gguf") == golden
