"""From an HF checkpoint: the types of convert_hf_to_gguf.py, and for quantized recipes those of both steps at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.encodings import BF16, BLOCKS, DENSE, F16, F32
from requant.execution import execute
from requant.formats import FORMATS, detect
from requant.importance import Importance, Measured
from requant.operations import convert, requantize
from requant.plan import Fidelity
from requant.recipes import RECIPES, Facts, Overrides, Wanted, choose_converted, recipe_named
from requant.sources import read
from tests import tiny_models
from tests.tiny_folder import write_tiny_folder

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("fixtures/recipes/converted.json").read_text())


def chosen(recipe, tensors, overrides=None):
    return choose_converted(recipe_named(recipe), tensors, Facts("llama", {}), overrides)


@pytest.mark.parametrize("label", GOLDEN["models"])
def test_types_are_the_conversion_scripts(label):
    tensors = [Wanted(name, tuple(row[0]), BF16) for name, row in GOLDEN["models"][label].items()]
    for column, recipe in enumerate(GOLDEN["types"], 1):
        for tensor, choice in zip(tensors, chosen(recipe, tensors), strict=True):
            assert choice.encoding.label == GOLDEN["models"][label][tensor.name][column], (recipe, tensor)
            fallback = recipe == "Q8_0" and choice.encoding == F16
            assert (choice.asked == BLOCKS["Q8_0"]) == fallback


def test_tensors_that_stay_dense_keep_every_value_of_their_source():
    tensors = [
        Wanted(f"blk.{i}.attn_rel_b.weight", (4, 256), DENSE[label])
        for i, label in enumerate(("BF16", "F16", "F32", "F8_E4M3", "F64"))
    ]
    assert [choice.encoding for choice in chosen("Q4_K_M", tensors)] == [BF16, F16, F32, F16, F32]
    assert [choice.encoding for choice in chosen("COPY", tensors)] == [BF16, F16, F32, F16, F32]


def test_options_change_what_they_name_and_nothing_else():
    names = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.attn_rel_b.weight")
    tensors = [Wanted(name, (256, 256), BF16) for name in names]

    def types(recipe, **overrides):
        return [choice.encoding.label for choice in chosen(recipe, tensors, Overrides(**overrides))]

    assert types("Q8_0") == ["Q8_0"] * 4
    assert types("Q8_0", quantize_output=False) == ["Q8_0", "BF16", "Q8_0", "Q8_0"]
    assert types("F16", output=BLOCKS["Q6_K"]) == ["F16", "Q6_K", "F16", "F16"]
    assert types("F16", tensor_types=(("attn_q", BLOCKS["Q4_0"]),)) == ["F16", "F16", "Q4_0", "F16"]
    assert types("Q4_K_M", quantize_output=False) == ["Q4_K", "BF16", "Q4_K", "BF16"]
    assert types("COPY", token_embedding=F32) == ["F32", "BF16", "BF16", "BF16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny"
    write_tiny_folder(path)
    return path


def tensors_of(path):
    return {t.name: (t.encoding.label, bytes(read(t.sources["data"]))) for t in FORMATS["gguf"].read(path).tensors}


@pytest.mark.parametrize(
    "recipe", ["Q4_K_M", "Q5_K_S", "Q6_K", "Q3_K_L", "Q2_K", "Q4_0", "Q8_0", "IQ4_XS", "TQ1_0", "MXFP4_MOE"]
)
@pytest.mark.parametrize("overrides", [Overrides(), Overrides(pure=True, quantize_output=False)], ids=["", "options"])
def test_one_pass_gives_the_bytes_of_two(recipe, overrides, folder, tmp_path):
    gguf, source = FORMATS["gguf"], FORMATS["safetensors"].read(folder)
    one = convert.Request(recipe, overrides)
    execute(convert.plan_conversion(source, gguf, tmp_path / "one.gguf", one))
    execute(convert.plan_conversion(source, gguf, tmp_path / "bf16.gguf", convert.Request("BF16")))
    second = requantize.Request(recipe, overrides)
    execute(requantize.plan_requantization(gguf.read(tmp_path / "bf16.gguf"), gguf, tmp_path / "two.gguf", second))
    assert tensors_of(tmp_path / "one.gguf") == tensors_of(tmp_path / "two.gguf")
    one_metadata, two_metadata = (gguf.read(tmp_path / f"{name}.gguf").metadata for name in ("one", "two"))
    assert one_metadata["general.file_type"] == two_metadata["general.file_type"]
    assert set(one_metadata) == set(two_metadata)


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q4_0", "IQ3_XXS"])
def test_one_pass_takes_an_importance_matrix_as_two_do(recipe, folder, tmp_path):
    gguf, source, random = FORMATS["gguf"], FORMATS["safetensors"].read(folder), np.random.default_rng(0)
    execute(convert.plan_conversion(source, gguf, tmp_path / "bf16.gguf", convert.Request("BF16")))
    dense = gguf.read(tmp_path / "bf16.gguf")
    importance = Importance(
        {
            tensor.name: Measured(random.random((1, tensor.shape[-1]), np.float32), np.array([3]))
            for tensor in dense.tensors
            if len(tensor.shape) == 2 and "token_embd" not in tensor.name
        },
        source="it",
    )
    one = convert.Request(recipe, importance=importance)
    execute(convert.plan_conversion(source, gguf, tmp_path / "one.gguf", one))
    two = requantize.Request(recipe, importance=importance)
    execute(requantize.plan_requantization(dense, gguf, tmp_path / "two.gguf", two))
    execute(convert.plan_conversion(source, gguf, tmp_path / "without.gguf", convert.Request("Q4_0")))
    assert tensors_of(tmp_path / "one.gguf") == tensors_of(tmp_path / "two.gguf")
    assert tensors_of(tmp_path / "one.gguf") != tensors_of(tmp_path / "without.gguf")
    metadata = gguf.read(tmp_path / "one.gguf").metadata
    assert metadata["quantize.imatrix.entries_count"].value == len(importance.entries)


def test_every_recipe_can_be_asked_for_by_name_and_number():
    for name, recipe in RECIPES.items():
        assert recipe_named(name.lower()) is recipe
        if recipe.file_type is not None:
            assert recipe_named(str(recipe.file_type)) is recipe


@pytest.mark.parametrize(("other", "wanted"), [("float32", F32), ("float16", F32), ("bfloat16", BF16)])
def test_experts_that_are_stored_differently_keep_their_values(tmp_path, other, wanted):
    tiny_models.make("mixtral", tmp_path / "hf", dtype=torch.bfloat16)
    path = tmp_path / "hf/model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("experts.1.w1.weight"))
    tensors[name] = (tensors[name].float() * 1.001).to(getattr(torch, other))
    save_file(tensors, path)
    request = convert.Request(vocabulary=False)
    plan = convert.plan_conversion(
        detect(tmp_path / "hf").read(tmp_path / "hf"), FORMATS["gguf"], tmp_path / "x.gguf", request
    )
    steps = {step.target.name: step for step in plan.steps}
    assert steps["blk.0.ffn_gate_exps.weight"].target.encoding == wanted
    assert all(step.fidelity is not Fidelity.ROUND for step in plan.steps)


def test_types_are_copied_from_another_gguf_whatever_the_source(tmp_path):
    """`convert --like`: of a folder what `requantize --like` makes of its GGUF."""
    from requant.formats import open as formats_open
    from tests.command import run
    from tests.tiny_folder import write_tiny_folder

    write_tiny_folder(tmp_path / "tiny")
    run("convert", tmp_path / "tiny", tmp_path / "theirs.gguf", "--to", "Q4_K_M")
    run("convert", tmp_path / "tiny", tmp_path / "mine.gguf", "--like", tmp_path / "theirs.gguf")
    types = [
        {t.name: t.encoding for t in formats_open(tmp_path / name).tensors} for name in ("theirs.gguf", "mine.gguf")
    ]
    assert types[0] == types[1]
    kinds = [formats_open(tmp_path / name).metadata["general.file_type"].value for name in ("theirs.gguf", "mine.gguf")]
    assert kinds == [15, 15]
    refused = run("convert", tmp_path / "tiny", tmp_path / "folder", "--like", tmp_path / "theirs.gguf")
    assert refused.exit_code == 4 and "the destination is none" in refused.stderr
    refused = run("convert", tmp_path / "tiny", tmp_path / "other.gguf", "--like", tmp_path / "tiny")
    assert refused.exit_code == 4 and "is no GGUF" in refused.stderr
