"""MLX folders that are written: the arrays that mlx-lm's own conversion has, and numbers equal to `mx.quantize`."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from requant.architectures.mlx_names import FAMILIES
from requant.codecs import codec_for
from requant.encodings.mlx import MlxAffine
from requant.encodings.scaled import MLX_FLOATS
from requant.errors import Error
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.importance import Importance, Measured
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.recipes import Overrides, tensor_type
from requant.schemes import scheme_named
from tests import naive_mlx, tiny_models
from tests.models import consumer, smollm2
from tests.stored import values_of

AFFINE = [MlxAffine(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
DTYPES = ("F32", "F16", "BF16")
#: What becomes of a model in mlx-lm: `quantize_model` with these arguments.
RECIPES = {
    "MLX-4-32": {"group_size": 32, "bits": 4},
    "MLX-NVFP4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    "MLX-MIXED_3_6-32": {"group_size": 32, "bits": 4, "mixed": "mixed_3_6"},
    "MLX-MXFP8": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
}


def encoded(encoding, values):
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(values.shape).items()}
    codec_for(encoding).encode(values, parts)
    return parts


def weights(seed, dtype, rows=4, columns=256):
    """Numbers of a dtype, of many sizes, some groups all alike or nothing."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-12, 4, (rows, 1))
    values = values.astype(np.float32)
    values[0, :64], values[-1, 64:128], values[-1, 128:] = 0, 0.125, np.round(values[-1, 128:] * 8) / 8
    return naive_mlx.rounded(values, dtype)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(AFFINE), st.sampled_from(DTYPES))
def test_affine_integers_are_those_of_the_naive_twin(seed, encoding, dtype):
    values, encoding = weights(seed, dtype), replace(encoding, scale=dtype)
    codes, scales, offsets = naive_mlx.affine(values, encoding.bits, encoding.group)
    parts = encoded(encoding, values)
    found = codec_for(encoding).unpack(parts, len(values))
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(found.scales, naive_mlx.rounded(scales, dtype))
    assert np.array_equal(found.offsets, naive_mlx.rounded(offsets, dtype))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(sorted(MLX_FLOATS)), st.sampled_from(DTYPES))
def test_small_floats_are_those_of_the_naive_twin(seed, mode, dtype):
    values, encoding = weights(seed, dtype), replace(MLX_FLOATS[mode], chosen_in=dtype)
    codes, scales = naive_mlx.floats(values, mode, dtype)
    parts = encoded(encoding, values)
    assert np.array_equal(parts["scales"], scales)
    assert np.array_equal(parts["data"].view(np.uint8), codes)


@pytest.mark.parametrize("encoding", [MlxAffine(3, 64, "F16"), MLX_FLOATS["mxfp4"]], ids=lambda e: e.label)
def test_importance_makes_the_error_less_where_it_matters(encoding):
    values = weights(7, "F16", 16)
    importance = np.where(np.arange(256) % 4, 1.0, 400.0).astype(np.float32)

    def error(how):
        parts = {n: np.zeros(p.shape, p.dtype.numpy) for n, p in encoding.parts(values.shape).items()}
        codec_for(encoding).encode(values, parts, importance=how)
        out = np.empty_like(values)
        codec_for(encoding).decode(parts, out)
        return float((importance * (out - values) ** 2).sum())

    assert error(importance) < error(None)


def converted(source, destination, recipe, overrides=()):
    request = Request(recipe, Overrides(tuple(map(tensor_type, overrides))))
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], destination, request)
    execute(plan, Options())
    return plan


def settings_of(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    return config["quantization"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlx") / "llama"
    tiny_models.make("llama", folder, dtype=torch.bfloat16)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_what_is_written_is_read_back(llama, tmp_path):
    converted(llama, tmp_path / "mlx", "MLX-6-32")
    stored = {tensor.name: tensor for tensor in detect(tmp_path / "mlx").read(tmp_path / "mlx").tensors}
    assert {t.encoding.label for t in stored.values() if len(t.shape) > 1} == {"MLX-6b-g32-BF16"}
    assert settings_of(tmp_path / "mlx") == {"group_size": 32, "bits": 6, "mode": "affine"}
    for tensor in detect(llama).read(llama).tensors:
        values = values_of(tensor)
        assert np.abs(values_of(stored[tensor.name]) - values).max() < 0.05 * np.abs(values).max() + 1e-6
    plan = converted(tmp_path / "mlx", tmp_path / "again", "MLX-6-32")
    assert {step.fidelity.value for step in plan.steps} == {"copy"}


@pytest.mark.filterwarnings("ignore")
def test_modules_have_types_of_their_own(llama, tmp_path):
    types = ["down_proj=MLX-8-32", "lm_head=F16", "q_proj=mlx-mxfp4", "nothing=MLX-3"]
    plan = converted(llama, tmp_path / "mlx", "MLX-4-32", types)
    own = {name.split(".", 2)[-1]: entry for name, entry in settings_of(tmp_path / "mlx").items() if "layers" in name}
    assert own["0.mlp.down_proj"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert own["1.self_attn.q_proj"] == {"group_size": 32, "bits": 4, "mode": "mxfp4"} and len(own) == 4
    labels = {step.target.name: step.target.encoding.label for step in plan.steps}
    assert labels["lm_head.weight"] == "F16" and labels["model.embed_tokens.weight"] == "MLX-4b-g32-BF16"
    assert [loss.subject for loss in plan.losses] == ["--tensor-type nothing=MLX-3b-g64-F16"]


@pytest.mark.filterwarnings("ignore")
def test_rows_that_are_no_whole_groups_are_told(llama, tmp_path):
    plan = converted(llama, tmp_path / "mlx", "MLX-4-64")
    told = [loss for loss in plan.losses if loss.kind is LossKind.SUBSTITUTED]
    assert {loss.subject.rpartition(".mlp.")[-1] for loss in told} == {"down_proj.weight"}
    assert "rows of 96 are no whole groups of 64" in told[0].detail


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_each_expert_of_a_stack_has_its_own_importance(tmp_path, kind):
    tiny_models.make("mixtral", tmp_path / "hf")
    source = tmp_path / "hf"
    if kind == "gguf":
        source = tmp_path / "m.gguf"
        model = detect(tmp_path / "hf").read(tmp_path / "hf")
        execute(plan_conversion(model, FORMATS["gguf"], source, Request("F32", vocabulary=False)))
    wanted = np.random.default_rng(1).random((4, 64), np.float32) + 0.5
    entry = Measured(wanted, np.ones(4, np.int64))
    request = Request("MLX-3-32", importance=Importance({"blk.1.ffn_up_exps.weight": entry}))
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], tmp_path / "mlx", request)
    steps = {step.target.name: step for step in plan.steps}
    found = steps["model.layers.1.block_sparse_moe.switch_mlp.up_proj.weight"].importance
    assert np.array_equal(found, wanted)
    lacking = {loss.subject for loss in plan.losses if loss.kind is LossKind.IMPORTANCE_UNUSED}
    assert "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight" in lacking


@pytest.mark.parametrize(
    "name", ["MLX-7", "MLX-4-48", "MLX-4-64-1", "MLX-MIXED_5_6", "MLX-MXFP6", "MLX-MXFP4-32", "MLX-1", "MLX-x"]
)
def test_what_mlx_does_not_make_is_refused(name):
    with pytest.raises(Error, match="is not understood"):
        scheme_named(name)


def test_names_that_people_use():
    assert scheme_named("mlx") == scheme_named("MLX-4bit") == scheme_named("MLX-4-64")
    assert scheme_named("MLX-mixed_3_6").high == MlxAffine(6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "types"), [("Q4_K_M", "MLX-8"), ("GPTQ", "Q8_0"), ("MLX-4", "Q8_0")])
def test_types_of_another_format_are_refused(llama, tmp_path, recipe, types):
    target = FORMATS["gguf" if recipe == "Q4_K_M" else "safetensors"]
    request = Request(recipe, Overrides((tensor_type(f"down={types}"),)), vocabulary=False)
    with pytest.raises(Error, match="--tensor-type"):
        plan_conversion(detect(llama).read(llama), target, tmp_path / "out", request)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["bloom", "bert"])
def test_a_family_that_mlx_lm_has_not_is_refused(tmp_path, family):
    tiny_models.make(family, tmp_path / "source")
    with pytest.raises(Error, match="mlx-lm"):
        converted(tmp_path / "source", tmp_path / "mlx", "MLX-4-32")


_QUANTIZE = """
import sys
import mlx.core as mx, numpy
for path in sys.argv[1:]:
    said = dict(numpy.load(path))
    dtype = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
    for label, values in said.items():
        name, mode, bits, group = label.split(":")
        kind = {"mode": mode} if mode != "affine" else {"bits": int(bits), "group_size": int(group)}
        made = mx.quantize(mx.array(values).astype(dtype[name]), **kind)
        said[label] = numpy.concatenate([numpy.array(part.reshape(-1).view(mx.uint8)) for part in made])
    numpy.savez(path, **said)
"""


@pytest.mark.slow
def test_numbers_are_those_of_mlx(tmp_path):
    consumer("mlx.core")
    wanted = {}
    for dtype in DTYPES:
        for number, encoding in enumerate([replace(one, scale=dtype) for one in AFFINE]):
            label = f"{dtype}:affine:{encoding.bits}:{encoding.group}"
            wanted[label] = weights(number, dtype, 32), encoding
        for mode, floats in MLX_FLOATS.items():
            wanted[f"{dtype}:{mode}:0:0"] = weights(99, dtype, 64), replace(floats, chosen_in=dtype)
    np.savez(tmp_path / "said.npz", **{label: values for label, (values, _) in wanted.items()})
    subprocess.run([sys.executable, "-c", _QUANTIZE, str(tmp_path / "said.npz")], check=True)
    theirs = np.load(tmp_path / "said.npz")
    for label, (values, encoding) in wanted.items():
        ours = np.concatenate([part.reshape(-1).view(np.uint8) for part in encoded(encoding, values).values()])
        assert np.array_equal(ours, theirs[label]), label


_CONVERT = """
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model

def same(a, b):
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and bool(
        mx.array_equal(a.reshape(-1).view(mx.uint8), b.reshape(-1).view(mx.uint8)))

for source, made, said in json.loads(Path(sys.argv[1]).read_text()):
    mixed = said.pop("mixed", None)
    model, config = load_model(Path(source))
    partly = "quantization" in config
    chosen = mixed_quant_predicate_builder(mixed, model, said["group_size"]) if mixed else None
    model, config = quantize_model(model, config, quant_predicate=chosen, **said)
    loaded, found = load_model(Path(made))
    theirs, ours = (dict(tree_flatten(one.parameters())) for one in (model, loaded))
    wrong = [name for name in sorted({*theirs, *ours}) if not same(theirs.get(name), ours.get(name))]
    assert not wrong, (source, wrong[:5])
    assert same(*(one(mx.array([[1, 7, 3]])) for one in (model, loaded))), (source, "logits")
    if not partly:  # of a model that is quantized already, mlx-lm keeps what is said of all
        assert config["quantization"] == found["quantization"] == found["quantization_config"], (source, found)
"""


def compare(tmp_path, cases):
    """mlx-lm's own conversion of each source, beside the folder that was made here: arrays, logits, config.json."""
    consumer("mlx_lm")
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, str(tmp_path / "cases.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


#: A tiny model of every family, and the recipe; those that mlx-lm cannot read as they are, or whose widths it cannot
#: quantize, have tests of their own.
_CASES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2-tied", "qwen2moe", "qwen3", "qwen3moe"), "MLX-4-32"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "phi3", "smollm3", "olmo2", "olmo3", "olmoe"), "MLX-MIXED_3_6-32"),
    **dict.fromkeys(("cohere", "cohere2", "seedoss", "nemotron", "starcoder2", "stablelm", "phi2"), "MLX-NVFP4"),
    **dict.fromkeys(("ernie", "erniemoe", "hunyuan", "glm", "glm4", "glm4moe", "glm4moe-ahead"), "MLX-4-32"),
    **dict.fromkeys(("glm4lite", "exaone4", "mistral3", "xverse", "internlm3", "minicpm"), "MLX-MIXED_3_6-32"),
    **dict.fromkeys(("nanbeige", "llama-iquest", "phimoe", "mellum", "afmoe", "dots1"), "MLX-MXFP8"),
    **dict.fromkeys(("deepseek2-lite", "deepseek3", "bailingmoe", "qwen3next", "lfm2moe"), "MLX-4-32"),
    **dict.fromkeys(("mamba", "falconmamba", "exaone", "internlm2"), "MLX-NVFP4"),
}
_APART = {"gpt_oss", "gpt2", "lfm2", "granite", "granitemoe"}


def plain(name, root):
    """A tiny model as transformers 4 stores it, which mlx-lm reads."""
    tiny_models.make(name, root / "source")
    converted(root / "source", root / "plain", "F32")
    return root / "plain"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_family_is_as_mlx_lm_converts_it(tmp_path):
    cases, families = [], set()
    for name, recipe in _CASES.items():
        source = plain(name, tmp_path / name)
        converted(source, tmp_path / name / "mlx", recipe)
        cases.append((str(source), str(tmp_path / name / "mlx"), RECIPES[recipe]))
        families.add(json.loads((source / "config.json").read_text())["model_type"])
    assert families | _APART == set(FAMILIES)
    compare(tmp_path, cases)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_families_that_mlx_lm_reads_otherwise(tmp_path, monkeypatch):
    cases = []
    for name in ("granite", "granitemoe"):
        model, config, changes = tiny_models.MODELS[name]
        monkeypatch.setitem(tiny_models.MODELS, name, (model, config, {**changes, "intermediate_size": 128}))
        cases.append([plain(name, tmp_path / name)] * 2)
    lfm2 = plain("lfm2", tmp_path / "lfm2")
    config = json.loads((lfm2 / "config.json").read_text())
    block = {"block_dim": 64, "block_ff_dim": 96, "block_multiple_of": 1, "block_ffn_dim_multiplier": 1.0}
    config |= {**block, "block_auto_adjust_ff_dim": False}
    (lfm2 / "config.json").write_text(json.dumps(config))
    cases.append([lfm2, lfm2])
    gpt2 = plain("gpt2", tmp_path / "gpt2")
    bare = tmp_path / "gpt2/bare"
    bare.mkdir()
    (bare / "config.json").write_text((gpt2 / "config.json").read_text())
    arrays = {name.removeprefix("transformer."): array for name, array in load_file(gpt2 / "model.safetensors").items()}
    save_file(arrays, bare / "model.safetensors")
    cases.append([gpt2, bare])
    gpt_oss = Path(__file__).parents[1] / "fixtures/mlx/gptoss-mxfp4"  # its experts stay what they are
    cases.append([gpt_oss, gpt_oss])
    listed = []
    for number, (ours, theirs) in enumerate(cases):
        plan = converted(ours, tmp_path / str(number), "MLX-4-32")
        listed.append((str(theirs), str(tmp_path / str(number)), RECIPES["MLX-4-32"]))
    kinds = {step.fidelity.value for step in plan.steps if "experts" in step.target.name and len(step.target.shape) > 2}
    assert kinds == {"copy"}
    compare(tmp_path, listed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_of_a_gguf_is_as_mlx_lm_converts_it(tmp_path):
    recipe = "MLX-MIXED_3_6-32"
    converted(smollm2(), tmp_path / "hf", "F32")  # in halves MLX takes minutes on a processor
    converted(tmp_path / "hf", tmp_path / "mlx", recipe)
    compare(tmp_path, [(str(tmp_path / "hf"), str(tmp_path / "mlx"), RECIPES[recipe])])


@pytest.mark.filterwarnings("ignore")
def test_integers_of_a_gguf_stay_and_all_else_has_their_dtype(tmp_path):
    source = detect(smollm2()).read(smollm2())
    plan = plan_conversion(source, FORMATS["safetensors"], tmp_path / "mlx", Request("MLX-4-32"))
    kinds = {step.sources[0].label: step.fidelity.value for step in plan.steps}
    assert kinds == {"Q4_1": "repack", "Q8_0": "round", "F32": "round"}
    assert {step.target.encoding.label for step in plan.steps} == {"MLX-4b-g32-F16", "F16"}
