"""Whole files: what requantize writes is what llama.cpp's own llama-quantize writes, byte for byte.

The goldens (fixtures/recipes/make_files.py) are digests of files that program wrote from the models of
tests/quantizable.py and from SmolLM2, with every recipe, with and without an importance matrix.
"""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.encodings import BLOCKS, F32
from requant.errors import PlanError
from requant.execution import execute
from requant.expressions import Form
from requant.formats.gguf import Gguf
from requant.formats.imatrix import read_imatrix
from requant.ir import Tensor, Typed
from requant.layout import LayoutOptions
from requant.losses import LossKind
from requant.operations.requantize import Request, plan_requantization
from requant.plan import Fidelity
from requant.recipes import Overrides, encoding_named
from requant.sources import Memory, read
from tests import ggml_oracle, models, quantizable

FORMAT = Gguf()
FIXTURES = Path(__file__).parents[1] / "fixtures/recipes"
FILES = json.loads((FIXTURES / "files.json").read_text())
GOLDEN, OPTIONS = FILES["models"], FILES["options"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the tiny models and their importance matrices."""
    folder = tmp_path_factory.mktemp("models")
    for label in quantizable.MODELS:
        quantizable.write_model(label, folder / f"{label}.gguf")
        quantizable.write_imatrix(label, folder / f"{label}.imatrix")
    return folder


def importance_of(made, label):
    """As read from a file of the name that the goldens were made with: the output repeats it."""
    importance = read_imatrix(made / f"{label}.imatrix")
    return type(importance)(importance.entries, importance.datasets, importance.chunks, source="imatrix.gguf")


def requantized(source, destination, request):
    plan = plan_requantization(FORMAT.read(source), FORMAT, destination, request)
    execute(plan)
    return plan


@pytest.mark.parametrize("given", [False, True], ids=["", "imatrix"])
@pytest.mark.parametrize("recipe", GOLDEN["gqa"])
@pytest.mark.parametrize("label", quantizable.MODELS)
def test_files_are_llama_quantizes(label, recipe, given, made, tmp_path):
    golden = GOLDEN[label][recipe][given]
    request = Request(recipe, importance=importance_of(made, label) if given else None)
    if golden is None:
        with pytest.raises(PlanError, match=r"needs an importance matrix|nothing is near enough"):
            plan_requantization(FORMAT.read(made / f"{label}.gguf"), FORMAT, tmp_path / "out.gguf", request)
        return
    requantized(made / f"{label}.gguf", tmp_path / "out.gguf", request)
    tensors = FORMAT.read(tmp_path / "out.gguf").tensors
    ours = [(t.name, t.encoding.label, hashlib.sha256(read(t.sources["data"])).hexdigest()[:8]) for t in tensors]
    differing = [o for o, digest in zip(ours, golden["tensors"].split(), strict=True) if o[2] != digest]
    assert not differing
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == golden["file"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", GOLDEN["smollm2"])
def test_smollm2_becomes_what_llama_quantize_makes_of_it(recipe, tmp_path):
    (golden,) = GOLDEN["smollm2"][recipe]
    source = models.smollm2()
    if golden is None:
        with pytest.raises(PlanError, match=r"needs an importance matrix|nothing is near enough"):
            plan_requantization(FORMAT.read(source), FORMAT, tmp_path / "out.gguf", Request(recipe))
        return
    requantized(source, tmp_path / "out.gguf", Request(recipe))
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == golden["file"]


@pytest.mark.parametrize(("options", "recipe", "golden"), OPTIONS)
def test_options_make_the_files_of_llama_quantize(options, recipe, golden, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").symlink_to(made / "gqa.gguf")
    Path("imatrix.gguf").symlink_to(made / "gqa.imatrix")
    for name, text in FILES["types"].items():
        Path(name).write_text(text)
    words = ["requantize", "--allow-requantize", *options, "model.gguf", "out.gguf", recipe, "2"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert hashlib.sha256(Path("out.gguf").read_bytes()).hexdigest() == golden


@pytest.mark.parametrize("written", ["./imatrix.gguf", "././/imatrix.gguf", "./" * 70 + "imatrix.gguf"])
def test_the_importance_matrix_is_called_what_the_user_calls_it(written, made, tmp_path, monkeypatch):
    """llama-quantize stores the word as it stands on its command line, up to 127 bytes."""
    monkeypatch.chdir(tmp_path)
    Path("imatrix.gguf").symlink_to(made / "gqa.imatrix")
    words = ["requantize", str(made / "gqa.gguf"), "out.gguf", "Q8_0", "--imatrix", written]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    assert FORMAT.read(Path("out.gguf")).metadata["quantize.imatrix.file"] == Typed("str", written[:127])


def plan_of(made, tmp_path, recipe="Q4_K_M", label="gqa", **more):
    return plan_requantization(
        FORMAT.read(made / f"{label}.gguf"), FORMAT, tmp_path / "out.gguf", Request(recipe, **more)
    )


def types(plan):
    return {step.target.name: step.target.encoding.label for step in plan.steps}


def test_a_file_is_like_another(made, tmp_path):
    requantized(made / "gqa.gguf", tmp_path / "like.gguf", Request("IQ4_XS"))
    like = FORMAT.read(tmp_path / "like.gguf")
    plan = plan_of(made, tmp_path, "COPY", like=like)
    assert types(plan) == {tensor.name: tensor.encoding.label for tensor in like.tensors}
    execute(plan)
    assert FORMAT.read(tmp_path / "out.gguf").metadata["general.file_type"] == Typed("u32", 30)
    # an option still beats the other file, and what that file lacks follows the recipe
    partly = type(like)(like.naming, like.architecture, like.tensors[:10], metadata=like.metadata)
    overrides = Overrides(tensor_types=(("attn_k", encoding_named("q8_0")),), output=encoding_named("q5_0"))
    mixed = types(plan_of(made, tmp_path, "Q6_K", like=partly, overrides=overrides))
    assert (mixed["output.weight"], mixed["blk.0.attn_k.weight"]) == ("Q5_0", "Q8_0")
    assert mixed["blk.0.attn_v.weight"] == next(t for t in like.tensors if "0.attn_v" in t.name).encoding.label
    assert mixed["blk.2.ffn_up.weight"] == "Q6_K"


def test_layers_are_pruned_with_their_importance(made, tmp_path):
    importance = importance_of(made, "gqa")
    plan = plan_of(made, tmp_path, "IQ4_XS", prune=(0,), importance=importance)
    assert [step.inputs[0].name for step in plan.steps if step.target.name == "blk.1.attn_q.weight"] == [
        "blk.2.attn_q.weight"
    ]
    (step,) = [step for step in plan.steps if step.target.name == "blk.1.attn_q.weight"]
    assert (step.importance == importance.weights("blk.2.attn_q.weight")).all()
    execute(plan)
    metadata = FORMAT.read(tmp_path / "out.gguf").metadata
    assert metadata["llama.block_count"] == Typed("u32", 2)
    assert list(metadata)[-1] == "llama.block_count"
    assert metadata["quantize.imatrix.entries_count"].value == len(importance.entries)
    with pytest.raises(PlanError, match="no layer would stay"):
        plan_of(made, tmp_path, prune=(0, 1, 2))


def test_per_layer_metadata_is_pruned_too(made, tmp_path):
    source = FORMAT.read(made / "gqa.gguf")
    source.metadata["llama.attention.head_count_kv"] = Typed("[u32]", [1, 2, 4])
    plan = plan_requantization(source, FORMAT, tmp_path / "out.gguf", Request("COPY", prune=(1,)))
    execute(plan)
    assert list(FORMAT.read(tmp_path / "out.gguf").metadata["llama.attention.head_count_kv"].value) == [1, 4]


def test_a_split_is_kept_as_llama_quantize_keeps_it(made, tmp_path):
    """Whole files: which tensors, which types, and in which order each says what it is."""
    source, cut = FORMAT.read(made / "gqa.gguf"), LayoutOptions(shard_tensors=8)
    execute(plan_requantization(source, FORMAT, tmp_path / "in.gguf", Request("COPY", cut=cut)))
    requantized(tmp_path / "in-00001-of-00004.gguf", tmp_path / "kept.gguf", Request("Q4_K_M", keep_split=True))
    kept = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("kept-*"))}
    assert kept == FILES["split"]


def test_a_split_is_kept(made, tmp_path):
    source = FORMAT.read(made / "gqa.gguf")
    split = plan_requantization(
        source, FORMAT, tmp_path / "in.gguf", Request("COPY", cut=LayoutOptions(shard_tensors=8))
    )
    execute(split)
    first = tmp_path / "in-00001-of-00004.gguf"
    plan = requantized(first, tmp_path / "out.gguf", Request("Q4_K_M", keep_split=True))
    assert [len(file.slots) for file in plan.layout.files] == [len(file.slots) for file in split.layout.files]
    assert [set(ours.slots) for ours in plan.layout.files] == [set(theirs.slots) for theirs in split.layout.files]
    whole = requantized(first, tmp_path / "whole.gguf", Request("Q4_K_M"))
    assert len(whole.layout.files) == 1
    shards = FORMAT.read(tmp_path / "out-00001-of-00004.gguf")
    assert {t.name: bytes(read(t.sources["data"])) for t in shards.tensors if "attn_q" in t.name} == {
        t.name: bytes(read(t.sources["data"]))
        for t in FORMAT.read(tmp_path / "whole.gguf").tensors
        if "attn_q" in t.name
    }
    # a file whose tensors are all pruned is not written
    pruned = plan_requantization(
        FORMAT.read(first), FORMAT, tmp_path / "less.gguf", Request("COPY", prune=(0, 1), keep_split=True)
    )
    assert all(file.slots for file in pruned.layout.files)


def test_metadata_is_set_at_the_end(made, tmp_path):
    values = (("general.name", Typed("str", "mine")), ("x.y", Typed("bool", True)))
    plan = requantized(made / "gqa.gguf", tmp_path / "out.gguf", Request("Q8_0", key_values=values))
    assert plan.steps
    metadata = FORMAT.read(tmp_path / "out.gguf").metadata
    assert list(metadata)[-4:] == ["general.quantization_version", "general.file_type", "general.name", "x.y"]
    assert (metadata["general.name"].value, metadata["general.file_type"].value) == ("mine", 7)


def test_overridden_metadata_counts_for_the_recipe(made, tmp_path):
    """Of a file whose tensors have a key head for each query head, and whose metadata say one for all, till mended."""
    source = FORMAT.read(made / "gqa.gguf")
    wide = {f"blk.{n}.attn_{which}.weight": (256, 256) for n in range(3) for which in "kv"}
    tensors = tuple(
        Tensor(tensor.name, wide[tensor.name], F32, {"data": Memory(bytes(4 * 256 * 256))})
        if tensor.name in wide
        else tensor
        for tensor in source.tensors
    )
    source, plan = replace(source, tensors=tensors), plan_requantization
    key_values = (("llama.attention.head_count_kv", Typed("u32", 4)),)
    shared = types(plan(source, FORMAT, tmp_path / "out.gguf", Request("Q2_K")))
    alone = types(plan(source, FORMAT, tmp_path / "out.gguf", Request("Q2_K", key_values=key_values)))
    assert (shared["blk.0.attn_v.weight"], alone["blk.0.attn_v.weight"]) == ("Q4_K", "Q3_K")


def test_dimensions_of_length_one_are_written_as_ggml_writes_them(made, tmp_path):
    """It keeps four of them in memory and writes up to the last that is longer: a router with one output is a row."""
    source = FORMAT.read(made / "gqa.gguf")
    shapes = {"blk.0.ffn_gate_inp_shexp.weight": (1, 256), "blk.0.a.weight": (1, 3, 256), "blk.0.b.weight": (3, 1, 256)}
    extra = [Tensor(name, shape, F32, {"data": Memory(bytes(4 * math.prod(shape)))}) for name, shape in shapes.items()]
    plan = plan_requantization(
        replace(source, tensors=(*source.tensors, *extra)), FORMAT, tmp_path / "out.gguf", Request("Q8_0")
    )
    execute(plan)
    tensors = {tensor.name: tensor for tensor in FORMAT.read(tmp_path / "out.gguf").tensors}
    assert [tensors[name].shape for name in shapes] == [(256,), (3, 256), (3, 1, 256)]
    assert [tensors[name].encoding.label for name in shapes] == ["F32", "Q8_0", "Q8_0"]


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_K_M"])
def test_values_too_large_for_blocks_are_refused_as_llama_quantize_does(recipe, made, tmp_path):
    source = FORMAT.read(made / "gqa.gguf")
    values = np.ones((2, 256), np.float32)
    values[1, 200] = 1e9
    huge = Tensor("blk.0.attn_gate.weight", (2, 256), F32, {"data": Memory(values.tobytes())})
    with pytest.raises(PlanError, match=r"'blk.0.attn_gate.weight': value \[1, .*\] begins a block"):
        execute(
            plan_requantization(
                replace(source, tensors=(*source.tensors, huge)), FORMAT, tmp_path / "out.gguf", Request(recipe)
            )
        )
    assert not list(tmp_path.iterdir())


def test_rounding_twice_is_told_and_exact_steps_are_not(made, tmp_path):
    requantized(made / "gqa.gguf", tmp_path / "q8.gguf", Request("Q8_0"))
    plan = plan_requantization(FORMAT.read(tmp_path / "q8.gguf"), FORMAT, tmp_path / "o.gguf", Request("Q4_K_M"))
    twice = {loss.subject for loss in plan.losses if loss.kind is LossKind.REQUANTIZED}
    assert twice == {step.target.name for step in plan.steps if step.fidelity is Fidelity.ROUND} != set()
    copied = plan_requantization(FORMAT.read(tmp_path / "q8.gguf"), FORMAT, tmp_path / "o.gguf", Request("COPY"))
    assert not copied.losses
    assert {step.fidelity for step in copied.steps} == {Fidelity.COPY}


def test_a_rehearsal_may_lack_the_importance_that_the_work_needs(made, tmp_path):
    plan = plan_of(made, tmp_path, "IQ2_XXS", rehearsal=True)
    needing = {loss.subject for loss in plan.losses if loss.kind is LossKind.IMPORTANCE_UNUSED}
    assert "blk.1.ffn_up.weight" in needing
    assert all(BLOCKS[types(plan)[name]].needs_importance for name in needing)
    with pytest.raises(PlanError, match="IQ2_XXS needs an importance matrix"):
        plan_of(made, tmp_path, "IQ2_XXS")


def test_the_report_for_programs_tells_exact_and_rounded_and_by_how_much(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requantized(made / "gqa.gguf", Path("q8.gguf"), Request("Q8_0"))
    words = ["requantize", "q8.gguf", "out.gguf", "Q4_0", "--tensor-type", "attn_q=q8_0", "--json"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    report = json.loads(result.stdout)
    steps = {step["to"]: step for step in report["steps"]}
    assert steps["blk.0.attn_q.weight"]["fidelity"] == "copy"
    assert steps["blk.0.attn_k.weight"] | {"fidelity": "round", "rounds_twice": True} == steps["blk.0.attn_k.weight"]
    rounded = {name for name, step in steps.items() if step["fidelity"] == "round"}
    assert set(report["relative_errors"]) == rounded != set()
    assert all(
        0.05 < error < 0.15 for name, error in report["relative_errors"].items() if steps[name]["to_type"] == "Q4_0"
    )
    assert {loss["subject"] for loss in report["losses"]} == rounded


@pytest.mark.parametrize(("first", "then"), [("Q4_0", "Q5_0"), ("Q4_0", "Q8_0"), ("Q4_1", "Q5_1")])
def test_blocks_are_rounded_anew_even_where_their_codes_would_fit(first, then, made, tmp_path):
    """llama-quantize decodes and rounds; `convert` carries the codes over, and loses nothing."""
    requantized(made / "gqa.gguf", tmp_path / "first.gguf", Request(first, Overrides(pure=True)))
    source = FORMAT.read(tmp_path / "first.gguf")
    plan = plan_requantization(source, FORMAT, tmp_path / "out.gguf", Request(then, Overrides(pure=True)))
    (step,) = [step for step in plan.steps if step.target.name == "blk.0.ffn_up.weight"]
    assert step.rounds_twice and not step.keeps_codes and step.form is Form.VALUES
    execute(plan)
    values = ggml_oracle.decode(first, read(step.inputs[0].sources["data"]))
    (tensor,) = [tensor for tensor in FORMAT.read(tmp_path / "out.gguf").tensors if tensor.name == step.target.name]
    assert read(tensor.sources["data"]).tobytes() == ggml_oracle.encode(then, values.reshape(tensor.shape)).tobytes()
