"""Mistral's own folders (params.json, consolidated*.safetensors) are the models that transformers' folders hold.

Each is made of a tiny model of transformers, by names and an order of rows that are written down here once more; the
GGUF of both must be the same, and so must the folder that comes out.
"""

import json
import re

import numpy as np
import pytest
import safetensors.torch as torch_file
import torch
import transformers
from safetensors.numpy import load_file, save_file

from requant import formats
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from requant.operations.validate import validate
from tests.command import run
from tests.naive_expressions import values
from tests.tiny_models import make

NAMES = (
    (r"^model\.embed_tokens", "tok_embeddings"),
    (r"^lm_head", "output"),
    (r"^model\.", ""),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.(.)_proj\.", r".attention.w\1."),
    (r"\.mlp\.gate_proj\.", ".feed_forward.w1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.w2."),
    (r"\.mlp\.up_proj\.", ".feed_forward.w3."),
    (r"\.block_sparse_moe\.", ".feed_forward."),
)
YARN = {"factor": 16.0, "alpha": 1.0, "beta": 32.0, "original_max_position_embeddings": 512}
#: Tiny model -> what its params.json has besides sizes.
TWINS = {
    "mistral": {},
    "mixtral": {"moe": {"num_experts": 4, "num_experts_per_tok": 2}},
    "mistral3": {
        "yarn": {**YARN, "apply_scale": False},
        "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 512},
    },
}


def interleaved(rows, heads):
    """The first of each half, the second of each, …"""
    return np.concatenate([head.reshape(2, -1, rows.shape[1]).transpose(1, 0, 2) for head in np.split(rows, heads)])


def own(source, folder, **more):
    """`source`, a folder of transformers, as Mistral publishes its models."""
    config = json.loads((source / "config.json").read_text())
    tensors = {}
    for name, value in load_file(source / "model.safetensors").items():
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
        found = re.search(r"\.([qk])_proj\.weight$", name)
        if found:
            value = interleaved(value, heads[found[1]]).reshape(value.shape)
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        tensors[name] = np.ascontiguousarray(value)
    rope = config.get("rope_parameters") or {}
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
        "rope_theta": rope.get("rope_theta", config.get("rope_theta")),
        "max_position_embeddings": config["max_position_embeddings"],
        **more,
    }
    folder.mkdir()
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def converted(folder, path, recipe="F32"):
    plan = plan_conversion(Safetensors().read(folder), Gguf(), path, Request(recipe, vocabulary=False))
    execute(plan)
    return plan, Gguf().read(path)


@pytest.fixture(params=sorted(TWINS))
def twins(request, tmp_path):
    make(request.param, tmp_path / "hf")
    return tmp_path / "hf", own(tmp_path / "hf", tmp_path / "own", **TWINS[request.param])


def test_no_rule_is_broken_by_it(twins):
    assert validate(twins[1]).findings == []


def test_the_gguf_is_that_of_the_transformers_folder(twins, tmp_path):
    theirs, ours = (converted(folder, tmp_path / f"{folder.name}.gguf")[1] for folder in twins)
    name = {"general.name", "general.basename", "general.size_label", "general.finetune"}
    said = [{k: v.value for k, v in one.metadata.items() if k not in name} for one in (ours, theirs)]
    assert said[0] == said[1]
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert np.array_equal(values(one), values(other)), one.name


def test_a_folder_that_transformers_loads_comes_of_it(twins, tmp_path):
    theirs, ours = twins
    execute(plan_conversion(Safetensors().read(ours), Safetensors(), tmp_path / "out", Request("F32")))
    before, after = (load_file(folder / "model.safetensors") for folder in (theirs, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "out" / "params.json").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == json.loads((theirs / "config.json").read_text())["architectures"]
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_words_of_fp8_are_read_by_the_names_of_their_scales(tmp_path):
    """`qscale_weight` is one number for each matrix; `qscale_act` is for what runs the quantized model."""
    make("mistral", tmp_path / "hf")
    folder = own(
        tmp_path / "hf", tmp_path / "own", quantization={"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    )
    tensors, expected = torch_file.load_file(folder / "consolidated.safetensors"), {}
    for name in [name for name in tensors if re.search(r"\.w.\.weight$", name)]:
        scale = tensors[name].abs().max() / 448
        words = (tensors[name] / scale).to(torch.float8_e4m3fn)
        expected[name] = words.float() * scale
        stem = name.removesuffix("weight")
        tensors |= {name: words, f"{stem}qscale_weight": scale, f"{stem}qscale_act": torch.tensor(1.0)}
    torch_file.save_file(tensors, folder / "consolidated.safetensors")
    plan, gguf = converted(folder, tmp_path / "fp8.gguf")
    found = {tensor.name: values(tensor) for tensor in gguf.tensors}
    for n in range(2):
        for ours, theirs in (("attn_q", "attention.wq"), ("ffn_down", "feed_forward.w2")):
            wanted = expected[f"layers.{n}.{theirs}.weight"].numpy()
            assert np.array_equal(found[f"blk.{n}.{ours}.weight"], wanted)
    assert {loss.subject.rpartition(".")[2] for loss in plan.losses} <= {"qscale_act"}


def test_what_sees_is_told_as_lost(tmp_path):
    make("mistral", tmp_path / "hf")
    folder = own(tmp_path / "hf", tmp_path / "own", vision_encoder={"hidden_size": 8})
    tensors = load_file(folder / "consolidated.safetensors")
    tensors["vision_encoder.patch_conv.weight"] = np.ones((8, 3, 2, 2), np.float32)
    save_file(tensors, folder / "consolidated.safetensors")
    plan, _ = converted(folder, tmp_path / "m.gguf")
    assert [loss.subject for loss in plan.losses] == ["vision_encoder.patch_conv.weight"]


def test_the_context_that_nothing_says_is_told(tmp_path):
    make("mistral", tmp_path / "hf")
    folder = own(tmp_path / "hf", tmp_path / "own", max_position_embeddings=None)
    plan, gguf = converted(folder, tmp_path / "m.gguf")
    assert gguf.metadata["llama.context_length"].value == 128_000
    assert any("how long a context" in loss.detail for loss in plan.losses)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"dim": None}, FormatError, "dim"),
        ({"n_heads": "4"}, FormatError, "n_heads"),
        ({"use_biases": True}, UnsupportedError, "use_biases"),
        ({"ssm": {"d_state": 8}}, UnsupportedError, "ssm"),
        ({"moe": {"num_experts": 4}}, FormatError, "num_experts_per_tok"),
        ({"yarn": {"factor": 2.0}}, FormatError, "original_max_position_embeddings"),
        ({"n_kv_heads": 3}, PlanError, "3 key/value heads"),
        ({"n_layers": 3}, PlanError, "layers.2"),
        ({"n_layers": 1}, PlanError, "layers.1"),
    ],
)
def test_wrong_params_are_told(tmp_path, params, error, said):
    make("mistral", tmp_path / "hf")
    folder = own(tmp_path / "hf", tmp_path / "own", **params)
    with pytest.raises(error, match=said):
        converted(folder, tmp_path / "m.gguf")


def test_an_unknown_tensor_is_named(tmp_path):
    make("mistral", tmp_path / "hf")
    folder = own(tmp_path / "hf", tmp_path / "own")
    tensors = load_file(folder / "consolidated.safetensors")
    save_file({**tensors, "layers.0.attention.wz.weight": np.ones(2, np.float32)}, folder / "consolidated.safetensors")
    with pytest.raises(UnsupportedError, match="wz"):
        converted(folder, tmp_path / "m.gguf")


def test_a_copy_would_contradict_itself(tmp_path):
    make("mistral", tmp_path / "hf")
    folder = own(tmp_path / "hf", tmp_path / "own")
    with pytest.raises(PlanError, match="copy"):
        plan_conversion(Safetensors().read(folder), Safetensors(), tmp_path / "out", Request())


@pytest.mark.slow
@pytest.mark.parametrize("out", ["m.gguf", "m"])
def test_a_merge_has_the_rows_of_transformers(twins, tmp_path, out):
    """Half of each of two folders that hold one model is that model."""
    theirs, ours = twins
    words = ("--to", "F32", *(["--no-vocab"] if out.endswith(".gguf") else []))
    for command in (
        ("convert", theirs, tmp_path / f"whole-{out}"),
        ("merge", ours, theirs, "--method", "linear", "--weight", "0.5,0.5", "-o", tmp_path / f"halves-{out}"),
    ):
        result = run(*command, *words)
        assert result.exit_code == 0, result.output
    paths = (tmp_path / f"{name}-{out}" for name in ("whole", "halves"))
    made = [{tensor.name: values(tensor) for tensor in formats.open(path).tensors} for path in paths]
    assert made[0].keys() == made[1].keys()
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
