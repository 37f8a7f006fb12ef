"""Whole models as mlx-lm stores them: to folders that transformers loads, and to GGUF, with the logits MLX computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from requant.errors import UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from tests.stored import values_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mlx"
MODELS = ("mixtral-4bit", "qwen2moe-mixed", "qwen3moe-nvfp4", "gptoss-mxfp4", "gpt2-8bit")


def convert(source, destination, recipe, format_name="safetensors"):
    request = Request(recipe, vocabulary=False)
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, request)
    execute(plan, Options(workers=2))
    return plan


def logits(folder):
    """As transformers computes them of what the folder holds; nothing is missing, and nothing is left over."""
    from transformers import AutoModelForCausalLM

    model, said = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    with torch.no_grad():
        return model.eval()(torch.arange(1, 33)[None]).logits[0].numpy()


def test_every_model_is_here():
    assert sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()) == sorted(MODELS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS)
def test_a_folder_that_transformers_loads_has_the_logits_of_mlx(tmp_path, model):
    convert(FIXTURES / model, tmp_path / "hf", "F32")
    if model.startswith("gptoss"):  # of yarn's parameters mlx-lm does not know `truncate`, which is false here
        path = tmp_path / "hf/config.json"
        path.write_text(path.read_text().replace('"truncate": false', '"truncate": true'))
    wanted, ours = np.load(FIXTURES / model / "logits.npy"), logits(tmp_path / "hf")
    assert np.abs(ours - wanted).max() < 2e-4 * np.abs(wanted).max()
    assert not {"quantization", "quantization_config"} & set(json.loads((tmp_path / "hf/config.json").read_text()))


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_has_the_values_of_the_folder(tmp_path, model):
    convert(FIXTURES / model, tmp_path / "hf", "F32")
    convert(tmp_path / "hf", tmp_path / "hf.gguf", "F32", "gguf")
    convert(FIXTURES / model, tmp_path / "mlx.gguf", "F32", "gguf")
    ours, theirs = (
        {t.name: t for t in detect(p).read(p).tensors} for p in (tmp_path / "mlx.gguf", tmp_path / "hf.gguf")
    )
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert np.array_equal(values_of(tensor), values_of(theirs[name])), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "recipe"), [("mixtral-4bit", "GPTQ-4-32"), ("qwen3moe-nvfp4", "FP8-BLOCK")])
def test_schemes_get_single_experts(tmp_path, model, recipe):
    convert(FIXTURES / model, tmp_path / "hf", recipe)
    names = {tensor.name for tensor in detect(tmp_path / "hf").read(tmp_path / "hf").tensors}
    assert not any("switch_mlp" in name for name in names)
    assert sum(".experts.3." in name for name in names) == 6


def test_a_copy_keeps_what_mlx_needs(tmp_path):
    source = FIXTURES / "mixtral-4bit"
    plan = convert(source, tmp_path / "copy", None)
    assert {step.fidelity.value for step in plan.steps} == {"copy"}
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "copy", source))
    assert set(ours) == set(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    config = json.loads((tmp_path / "copy/config.json").read_text())
    assert config["quantization"] == json.loads((source / "config.json").read_text())["quantization"]


@pytest.mark.filterwarnings("ignore")
def test_turned_matrices_of_gpt2_that_are_plain_numbers_are_turned_back(tmp_path):
    """Square ones lie one way or the other, and nothing but MLX's prefix tells."""
    convert(FIXTURES / "gpt2-8bit", tmp_path / "hf", "F32")
    plain = tmp_path / "plain"
    plain.mkdir()
    arrays = load_file(tmp_path / "hf/model.safetensors")
    turned = {
        name.replace("transformer.", "model."): np.ascontiguousarray(
            array.T if ".c_" in name and name.endswith("weight") else array
        )
        for name, array in arrays.items()
    }
    save_file(turned, plain / "model.safetensors", metadata={"format": "mlx"})
    shutil.copy(tmp_path / "hf/config.json", plain / "config.json")
    convert(plain, tmp_path / "again", "F32")
    again = load_file(tmp_path / "again/model.safetensors")
    assert set(again) == set(arrays) and all(np.array_equal(again[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("model.layers.0.mlp.switch_mlp.gate_proj.weight", "MLX"),
        ("model.layers.0.self_attn.embed_q.weight", "MLX"),
        ("layers.0.attention.wq.weight", "Mistral"),
        ("tok_embeddings.weight", "Mistral"),
        ("decoder.layers.0.self_attention.linear_qkv.weight", "Megatron"),
        ("model.decoder.layers.mlp.linear_fc1.weight", "Megatron"),
        ("model.language_model.encoder.layers.0.input_layernorm.weight", "Megatron"),  # NeMo 1
        ("language_model.embedding.word_embeddings.weight", "Megatron"),
        ("blk.0.attn_q.weight", "ggml"),
    ],
)
@pytest.mark.parametrize("model_type", ["strange", "llama"])
def test_names_of_other_libraries_are_refused_by_name(tmp_path, name, whose, model_type):
    source = tmp_path / "m"
    source.mkdir()
    save_file({name: np.zeros((4, 8, 8) if "switch" in name else (8, 8), np.float32)}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UnsupportedError, match=whose) as error:
        convert(source, tmp_path / "hf", "BF16")
    assert name in str(error.value) and error.value.hint
    convert(source, tmp_path / "copy", None)


def test_stacks_that_transformers_5_alone_loads_are_told(tmp_path):
    from tests import tiny_models
    from tests.expert_layouts import laid_out

    tiny_models.make("qwen3moe", tmp_path / "single", dtype=torch.bfloat16)
    source = laid_out(tmp_path / "single", tmp_path / "stacks", "in_memory")
    plan = convert(source, tmp_path / "dense", "F16")
    told = {loss.subject for loss in plan.losses if loss.kind is LossKind.UNLOADED}
    assert len(told) == 4 and all("experts" in name for name in told)
    assert not [
        loss for loss in convert(source, tmp_path / "gptq", "GPTQ-4-16").losses if loss.kind is LossKind.UNLOADED
    ]
