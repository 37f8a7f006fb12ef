"""Folders that GPTQModel makes of SmolLM2, as people publish them: repacked to GGUF, and run in llama.cpp.

Quantizing takes GPTQModel from minutes to an hour on the CPU; REQUANT_LIBRARY_FOLDERS names a folder where what was
made is kept, and found again, and without it nothing runs here: test_gptq_consumers.py has a small model quantized.
Perplexities are measured on another text than was calibrated on.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from requant.verify.check import Trial, check_model, default_text
from requant.verify.llama_cpp import LlamaCpp
from tests.models import smollm2
from tests.stored import values_of

pytestmark = pytest.mark.slow
KEPT = "REQUANT_LIBRARY_FOLDERS"
#: (family, bits, inputs of a group). With 4 bits a model of this size may say anything.
KINDS = {"gptq-4-32": ("gptq", 4, 32), "gptq-8-64": ("gptq", 8, 64), "awq-4-64": ("awq", 4, 64)}
#: Arguments: a dense folder, a text, family, bits, group, "act" for inputs by falling activation, the folder to write.
QUANTIZE = """
import sys
from pathlib import Path
import torch
from gptqmodel import GPTQModel, QuantizeConfig
from transformers import AutoTokenizer

dense, text, family, bits, group, order, into = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(dense)(Path(text).read_text())["input_ids"]
samples = [{"input_ids": ids[i : i + 256], "attention_mask": [1] * 256} for i in range(0, len(ids) - 255, 256)]
more = {"method": "awq", "format": "gemm", "sym": False} if family == "awq" else {"act_group_aware": False}
how = QuantizeConfig(bits=int(bits), group_size=int(group), desc_act=order == "act", device="cpu", **more)
model = GPTQModel.load(dense, how, dtype=torch.float16 if family == "awq" else torch.bfloat16)
model.quantize(samples, batch_size=8)
model.save(into)
"""


def converted(source, destination, recipe=None):
    target = FORMATS["gguf" if destination.suffix == ".gguf" else "safetensors"]
    plan = plan_conversion(detect(source).read(source), target, destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


def quantize(dense, text, kind, into):
    """GPTQModel quantizes a folder, in a process of its own."""
    family, bits, group, order = kind
    command = [sys.executable, "-c", QUANTIZE, dense, text, family, bits, group, order, into]
    more = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1"}  # it stops on two processors with fewer workers
    done = subprocess.run(list(map(str, command)), env=os.environ | more, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:].decode(errors="replace")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kind -> its folder."""
    if KEPT not in os.environ:
        pytest.skip(f"{KEPT} names no folder")
    scratch = tmp_path_factory.mktemp("dense")

    def folder(kind):
        into = Path(os.environ[KEPT]) / kind
        if not (into / "config.json").is_file():
            if not (scratch / "smollm2").is_dir():
                converted(smollm2(), scratch / "smollm2", "BF16")
                (scratch / "text").write_text(default_text())
            quantize(scratch / "smollm2", scratch / "text", (*KINDS[kind], ""), into)
        return into

    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_repack_is_the_model_it_was(made, tmp_path, kind):
    plan = converted(made(kind), tmp_path / "repacked.gguf")
    assert {step.fidelity for step in plan.steps} == {Fidelity.COPY, Fidelity.REPACK}
    converted(made(kind), tmp_path / "dense.gguf", "F32")
    repacked, dense = (
        {tensor.name: tensor for tensor in FORMATS["gguf"].read(tmp_path / f"{name}.gguf").tensors}
        for name in ("repacked", "dense")
    )
    layers = [name for name in repacked if repacked[name].encoding.label.startswith("Q")]
    assert len(layers) == 210
    for name in layers:  # the library rounds products to F16, llama.cpp does not
        ours = values_of(repacked[name]).astype(np.float16).astype(np.float32)
        assert np.array_equal(ours, values_of(dense[name])), name

    @contextmanager
    def reference(_):
        with LlamaCpp(tmp_path / "dense.gguf", n_ctx=512, threads=1) as llama:
            yield llama

    expected = "Paris" if KINDS[kind][1] == 8 else ""
    trial = Trial(expect=expected, texts=("\n".join(topics.values())[:60_000],), chunks=4, threads=1)
    report = check_model(tmp_path / "repacked.gguf", trial, None, reference)
    assert report.failures == [] and report.answer.text.strip()
    found, ratio = report.against.divergence, report.against.divergence.ratio
    print(f"{kind}: {report.answer.text!r}, {report.perplexity}, ratio {ratio}, KL {found.kl}, top-1 {found.top1}")
    # llama.cpp rounds what it multiplies quantized weights with to 8 bits: the difference is that, not the weights'
    assert abs(ratio.value - 1) < 0.005 + 2 * ratio.error
    assert found.kl.value < 0.02
