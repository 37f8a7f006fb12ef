"""gpt-oss: rows that come in turn are taken apart and put together again, as numbers, bytes and MXFP4 codes."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from requant.encodings import BLOCKS, F16, F32
from requant.encodings.scaled import GPT_OSS
from requant.errors import PlanError
from requant.execution import Options, execute
from requant.expressions import Deinterleaved, Interleaved, Stored, Transposed, reshaped
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec
from requant.layout import Layout, OutputFile
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity, Plan, Step
from requant.runs import runs_of
from requant.sources import Memory
from requant.verify.llama_cpp import LlamaCpp
from tests.test_architectures_run import agree
from tests.tiny_gpt_oss import blocks_and_scales, write_tiny_gpt_oss
from tests.tiny_models import make

#: Expert stacks that take several runs: experts, rows of gate (and of up), columns.
SHAPE = (3, 1500, 320)


def tensor(array, encoding=None, **parts):
    sources = {name: Memory(part.tobytes()) for name, part in (parts or {"data": array}).items()}
    return Tensor("t", array.shape, encoding or {"float32": F32, "float16": F16}[str(array.dtype)], sources)


def carried_out(folder: Path, step: Step) -> dict[str, bytes]:
    """The stored bytes of each part."""
    slots, end = {}, 0
    for name, part in step.target.parts.items():
        slots["t", name] = end
        end += part.nbytes
    execute(Plan((step,), Layout(folder, (OutputFile("out", b"", end, slots),))), Options(workers=2), overwrite=True)
    data = (folder / "out").read_bytes()
    sizes = {name: part.nbytes for name, part in step.target.parts.items()}
    return {name: data[slots["t", name] : slots["t", name] + size] for name, size in sizes.items()}


def moved(folder, values, shape, encoding):
    assert values.shape == shape
    step = Step(values, TensorSpec("t", shape, encoding))
    return step, carried_out(folder, step)


def woven_of(*tensors):
    return Interleaved(tuple(Stored(tensor) for tensor in tensors))


def as_rows(tensor):
    """The numbers of vectors as rows of one."""
    return reshaped(Stored(tensor), (*tensor.shape, 1))


def random(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)


@pytest.mark.parametrize("encoding", [F32, F16], ids=["moved as bytes", "rounded"])
def test_rows_are_taken_apart_and_put_together(tmp_path, encoding):
    experts, rows, columns = SHAPE
    dtype = encoding.dtype.numpy
    gate, up = random(SHAPE), random(SHAPE) + 1
    woven = np.stack([gate, up], axis=2).reshape(experts, 2 * rows, columns)
    for turn, wanted in enumerate((gate, up)):
        step, stored = moved(tmp_path, Deinterleaved(Stored(tensor(woven)), turn), SHAPE, encoding)
        assert len(list(runs_of(step))) > 1
        assert stored["data"] == wanted.astype(dtype).tobytes()
    step, stored = moved(tmp_path, woven_of(tensor(gate), tensor(up)), woven.shape, encoding)
    assert len(list(runs_of(step))) > 1
    assert stored["data"] == woven.astype(dtype).tobytes()


def test_of_biases_the_numbers_are_rows(tmp_path):
    gate, up = random((5, 70)), random((5, 70)) + 1
    woven = np.stack([gate, up], axis=2).reshape(5, 140)
    half = reshaped(Deinterleaved(as_rows(tensor(woven)), 1), gate.shape)
    assert moved(tmp_path, half, gate.shape, F32)[1]["data"] == up.tobytes()
    rows = Interleaved((as_rows(tensor(gate)), as_rows(tensor(up))))
    assert moved(tmp_path, reshaped(rows, woven.shape), woven.shape, F32)[1]["data"] == woven.tobytes()


@pytest.mark.parametrize("encoding", [F32, BLOCKS["Q8_0"]], ids=["plain", "in blocks"])
def test_transposed_stacks_are_done_expert_by_expert(tmp_path, encoding):
    experts, rows, columns = SHAPE
    gate, up = random(SHAPE), random(SHAPE) + 1
    turned = np.ascontiguousarray(np.stack([gate, up], axis=2).reshape(experts, 2 * rows, columns).swapaxes(1, 2))
    step, stored = moved(tmp_path, Deinterleaved(Transposed(Stored(tensor(turned))), 0), SHAPE, encoding)
    assert len(list(runs_of(step))) == experts
    upright = moved(tmp_path, Stored(tensor(gate)), SHAPE, encoding)[1]
    assert stored == upright
    if encoding == F32:
        back = moved(tmp_path, Transposed(woven_of(tensor(gate), tensor(up))), turned.shape, F32)[1]
        assert back["data"] == turned.tobytes()


def test_codes_are_taken_apart_and_put_together(tmp_path):
    blocks, scales = blocks_and_scales(random((3, 600, 640)))
    woven = tensor(np.empty((3, 600, 640)), GPT_OSS, data=blocks, scales=scales)
    halves = []
    for turn in (0, 1):
        step, stored = moved(tmp_path, Deinterleaved(Stored(woven), turn), (3, 300, 640), BLOCKS["MXFP4"])
        assert step.fidelity is Fidelity.REPACK
        half = np.frombuffer(stored["data"], np.uint8).reshape(3, 300, 20, 17)
        assert np.array_equal(half[..., 0], scales[:, turn::2])
        halves.append(tensor(np.empty((3, 300, 640)), BLOCKS["MXFP4"], data=half))
    step, stored = moved(tmp_path, woven_of(*halves), (3, 600, 640), GPT_OSS)
    assert step.fidelity is Fidelity.REPACK
    assert stored == {"data": blocks.tobytes(), "scales": scales.tobytes()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny model as OpenAI would publish it."""
    return write_tiny_gpt_oss(tmp_path_factory.mktemp("published") / "tiny-gpt-oss")


def convert(source, out, recipe=None, **request):
    reader, writer = (Gguf() if path.suffix == ".gguf" else Safetensors() for path in (source, out))
    plan = plan_conversion(reader.read(source), writer, out, Request(recipe=recipe, **request))
    execute(plan)
    return plan


def same_tensors(one, other):
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert torch.equal(ours[name].float(), array.float()), name


def logits(folder, text, **options):
    with contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
        return model(torch.tensor([text])).logits[0].numpy()


def test_mxfp4_to_gguf_and_back(published, tmp_path):
    """Blocks and scales come back byte for byte, and transformers loads them and computes the same."""
    convert(published, tmp_path / "model.gguf")
    plan = convert(tmp_path / "model.gguf", tmp_path / "back", "MXFP4")
    assert not plan.losses
    assert plan.fidelities()[Fidelity.ROUND] == 0
    same_tensors(tmp_path / "back", published)
    config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "back", published))
    assert config["quantization_config"] == theirs["quantization_config"]
    plain = {"quantization_config": transformers.Mxfp4Config(dequantize=True)}
    text = np.random.default_rng(1).integers(0, 260, 40).tolist()
    wanted = logits(published, text, **plain)
    assert np.array_equal(logits(tmp_path / "back", text, **plain), wanted)
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "back", published))
    sentence = "In the beginning, 12345 things began: THE end isn't near!\n\n <|start|>x<|end|>"
    assert ours(sentence)["input_ids"] == theirs(sentence)["input_ids"]
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == (theirs.bos_token, theirs.eos_token, theirs.pad_token)

    convert(tmp_path / "model.gguf", tmp_path / "plain")  # MXFP4 fits BF16, in which transformers has its parameters
    assert (
        load_file(tmp_path / "plain" / "model.safetensors")["model.layers.0.mlp.experts.down_proj"].dtype
        is torch.bfloat16
    )
    convert(published, tmp_path / "parameters", "BF16")
    same_tensors(tmp_path / "plain", tmp_path / "parameters")
    assert np.array_equal(logits(tmp_path / "plain", text), wanted)


def test_plain_numbers_of_mxfp4_compute_the_same_in_llama_cpp(published, tmp_path):
    """Up to rope's borders, which llama.cpp cuts: they hardly matter to so few tokens."""
    convert(published, tmp_path / "model.gguf", "F32", vocabulary=False)
    text = np.random.default_rng(1).integers(0, 260, 24).tolist()
    theirs = logits(published, text, quantization_config=transformers.Mxfp4Config(dequantize=True))
    with LlamaCpp(tmp_path / "model.gguf", n_ctx=24, precise=True) as runtime:
        agree(runtime.logits(text), theirs)


def test_plain_experts_become_mxfp4(tmp_path):
    """Rounding to MXFP4 in a folder or in a GGUF: the experts, and nothing else of the folder."""
    make("gptoss", tmp_path / "hf", dtype=torch.bfloat16)
    plan = convert(tmp_path / "hf", tmp_path / "folder", "MXFP4")
    rounded = {step.target.name for step in plan.steps if step.fidelity is Fidelity.ROUND}
    names = ("gate_up_proj.weight", "down_proj.weight")
    assert rounded == {f"model.layers.{n}.mlp.experts.{name}" for n in (0, 1) for name in names}
    ours = logits(tmp_path / "folder", [5, 6, 7], quantization_config=transformers.Mxfp4Config(dequantize=True))
    theirs = logits(tmp_path / "hf", [5, 6, 7])
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98
    plan = convert(tmp_path / "hf", tmp_path / "model.gguf", "MXFP4_MOE", vocabulary=False)
    labels = {
        step.target.name: step.target.encoding.label for step in plan.steps if step.target.name.endswith(".weight")
    }
    assert {name for name, label in labels.items() if label == "MXFP4"} == {
        f"blk.{n}.ffn_{name}_exps.weight" for n in (0, 1) for name in ("gate", "up", "down")
    }


def test_rows_of_experts_that_are_no_blocks(tmp_path):
    parameter = tensor(random((4, 90, 64)))
    one = replace(parameter, name="model.layers.0.mlp.experts.down_proj")
    source = Checkpoint(Naming.HF, "gpt_oss", (one,), {"model_type": "gpt_oss"})
    with pytest.raises(PlanError, match="groups of 32; a row of 90"):
        plan_conversion(source, Safetensors(), tmp_path / "out", Request(recipe="MXFP4"))
