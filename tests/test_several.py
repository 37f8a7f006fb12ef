"""Several recipes in one pass: the bytes of separate runs, everything read once, all files or none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from requant.cli.main import cli
from requant.errors import FormatError, PlanError
from requant.execution import Options, execute, execute_together
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from requant.operations.requantize import Request as Types
from requant.operations.requantize import plan_requantization
from requant.together import input_bytes
from tests.tiny_folder import write_tiny_folder

GGUF = ["Q4_K_M", "Q8_0", "F16", "IQ4_XS", "COPY"]
FOLDERS = ["GPTQ", "MLX-4-32", "BF16", "NVFP4", "W8A8"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    write_tiny_folder(root / "tiny")
    execute(plan(root / "tiny", "gguf", root / "tiny.gguf", "F16"))
    return root


def plan(source, target, destination, recipe):
    return plan_conversion(detect(source).read(source), FORMATS[target], destination, Request(recipe))


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "target", "recipes"),
    [("tiny", "gguf", GGUF), ("tiny.gguf", "gguf", GGUF), ("tiny", "safetensors", FOLDERS)],
)
def test_each_has_the_bytes_of_a_run_of_its_own(models, tmp_path, source, target, recipes):
    model = detect(models / source).read(models / source)
    suffix = ".gguf" if target == "gguf" else ""

    def planned(root):
        return [
            plan_conversion(model, FORMATS[target], tmp_path / root / f"m-{recipe}{suffix}", Request(recipe))
            for recipe in recipes
        ]

    (tmp_path / "together").mkdir()
    (tmp_path / "together/mine.txt").write_text("mine")
    plans = planned("together")
    receipts = execute_together(plans, Options(2, measure=True))
    alone = [execute(one, Options(2, measure=True)) for one in planned("alone")]
    assert files(tmp_path / "together") == {**files(tmp_path / "alone"), "mine.txt": b"mine"}
    for ours, theirs in zip(receipts, alone, strict=True):
        assert (ours.files, ours.errors) == (theirs.files, pytest.approx(theirs.errors))
        assert ours.bytes_read == input_bytes(plans) < sum(one.bytes_read for one in alone)


def test_what_all_round_is_read_once(models, tmp_path):
    plans = [plan(models / "tiny", "gguf", tmp_path / f"{name}.gguf", name) for name in ("Q4_0", "Q5_0", "Q8_0")]
    assert input_bytes(plans) == plans[0].input_bytes
    assert execute_together(plans)[0].bytes_read == plans[0].input_bytes


def test_a_failure_leaves_none(models, tmp_path):
    source = tmp_path / "broken"
    source.mkdir()
    for path in (models / "tiny").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    arrays = load_file(source / "model.safetensors")
    name = sorted(name for name in arrays if "down_proj" in name)[-1]
    arrays[name] = torch.full_like(arrays[name], torch.nan)
    save_file(arrays, source / "model.safetensors", metadata={"format": "pt"})
    plans = [plan(source, "gguf", tmp_path / f"out-{recipe}.gguf", recipe) for recipe in ("Q8_0", "Q4_K_M")]
    with pytest.raises(FormatError, match="NaN"):
        execute_together(plans)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]
    receipts = execute_together(plans, Options(replace_nan=0.0))
    assert [sum(receipt.replaced.values()) for receipt in receipts] == [arrays[name].numel()] * 2


def test_the_same_file_twice_is_refused(models, tmp_path):
    plans = [plan(models / "tiny", "gguf", tmp_path / "same.gguf", recipe) for recipe in ("Q8_0", "Q4_0")]
    with pytest.raises(PlanError, match="written twice"):
        execute_together(plans)
    assert not list(tmp_path.iterdir())


def test_types_of_a_gguf_with_columns_that_matter(models, tmp_path):
    """Every recipe has its own importance; the values are the same."""
    source = detect(models / "tiny.gguf").read(models / "tiny.gguf")
    made = []
    for root in ("together", "alone"):
        plans = []
        for recipe in ("Q4_0", "Q5_K_M"):
            one = plan_requantization(source, FORMATS["gguf"], tmp_path / root / f"{recipe}.gguf", Types(recipe))
            steps = [
                replace(step, importance=np.linspace(0.1, 9, step.target.shape[-1], dtype=np.float32))
                if recipe == "Q4_0" and len(step.target.shape) > 1
                else step
                for step in one.steps
            ]
            plans.append(replace(one, steps=tuple(steps)))
        if root == "together":
            execute_together(plans)
        else:
            for one in plans:
                execute(one)
        made.append(files(tmp_path / root))
    assert made[0] == made[1]


def run(*words):
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def test_names_have_the_recipe_in_them(models, tmp_path):
    result = run("convert", models / "tiny", tmp_path / "m-{}.gguf", "--to", "q4_0,Q4_K", "--json")
    said = json.loads(result.stdout)
    assert [one["recipe"] for one in said["receipts"]] == ["Q4_0", "Q4_K_M"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-Q4_0.gguf", "m-Q4_K_M.gguf"]
    run("convert", models / "tiny", tmp_path / "all", "--to", "Q4_0,F16")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["tiny-F16.gguf", "tiny-Q4_0.gguf"]
    run("convert", models / "tiny.gguf", tmp_path / "hf", "--to", "GPTQ,BF16")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["tiny-BF16", "tiny-GPTQ"]
    run("requantize", models / "tiny.gguf", tmp_path / "again", "Q8_0,Q4_0")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["tiny-Q4_0.gguf", "tiny-Q8_0.gguf"]


def test_the_mark_stands_for_one_recipe_too(models, tmp_path):
    """So that what names recipes in a loop need not count them."""
    planned = json.loads(
        run("convert", models / "tiny", tmp_path / "m-{}.gguf", "--to", "q8_0", "--dry-run", "--json").stdout
    )
    assert [file["name"] for file in planned["files"]] == ["m-Q8_0.gguf"]
    assert run("convert", models / "tiny", tmp_path / "m-{}.gguf", "--to", "Q8_0").exit_code == 0
    words = [tmp_path / "m-Q8_0.gguf", tmp_path / "r-{}.gguf", "Q4_0", "--allow-requantize"]
    assert run("requantize", *words).exit_code == 0 and (tmp_path / "r-Q4_0.gguf").is_file()


def test_a_dry_run_shows_one_plan_and_writes_nothing(models, tmp_path):
    result = run("convert", models / "tiny", tmp_path / "m-{}.gguf", "--to", "Q4_0,Q8_0", "--dry-run")
    assert "once, writes" in result.stdout and "m-Q8_0.gguf" in result.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("m.gguf --to Q4_0,Q8_0", "is one file"),
        ("m-{}.gguf --to Q4_0,Q4_0", "given twice"),
        ("m-{}.gguf --to Q4_K,Q4_K_M", "given twice"),
        ("m-{}.gguf --to Q4_0,", "a name is missing"),
        ("m-{}.gguf --to Q4_0,Q9_0", "no quantization type"),
        ("m-{}.gguf --to Q4_0,GPTQ", "no GGUF can be GPTQ"),
        ("all --to Q4_0,Q8_0 --explain", "of one recipe"),
    ],
)
def test_what_cannot_be_is_told(models, tmp_path, words, message):
    result = run("convert", models / "tiny", tmp_path / words.split()[0], *words.split()[1:])
    assert result.exit_code == 4 and message in result.stderr and not list(tmp_path.iterdir())
