"""Pipelines: the same bytes as the commands one after another, and as a run that was killed again and again."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from requant import formats
from requant.cli.main import cli
from requant.formats.imatrix.statistics import read_statistics
from requant.pipelines.recipe import recipe_from
from requant.pipelines.work import Work
from tests.pipelines import write_all
from tests.test_json import run as printed
from tests.test_student import write_teacher
from tests.tiny_folder import write_tiny_folder

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def requant(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(stages, model="./tiny", output="out.gguf"):
    Path("r.yaml").write_text(json.dumps({"model": model, "stages": stages, "output": output}))
    return "r.yaml"


def values_of(path):
    return {tensor.name: tensor.numpy() for tensor in formats.open(Path(path)).tensors}


def types_of(path):
    return {tensor.name: tensor.encoding.label for tensor in formats.open(Path(path)).tensors}


def same(path, other):
    one, two = values_of(path), values_of(other)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_it_is_what_the_commands_make_one_after_another(here):
    requant("run", recipe([{"prune": {"sparsity": "2:4"}}, {"merge": "previous+./adapter"}, {"quantize": "Q4_K_M"}]))
    requant("prune", "tiny", "pruned", "--sparsity", "2:4", "-q")
    requant("merge", "pruned+./adapter", "-o", "merged", "-q")
    requant("convert", "merged", "stepwise.gguf", "--to", "Q4_K_M", "-q")
    same("out.gguf", "stepwise.gguf")


def test_of_an_unchanged_model_it_is_what_convert_makes(here):
    requant("run", recipe([{"quantize": {"to": "Q4_K_M", "tensor_type": {"attn_v": "Q8_0"}}}]))
    requant("convert", "tiny", "converted.gguf", "--to", "Q4_K_M", "--tensor-type", "attn_v=Q8_0", "-q")
    assert Path("out.gguf").read_bytes() == Path("converted.gguf").read_bytes()


def test_a_merge_in_between_is_rounded_as_if_it_had_been_written(here):
    linear = {
        "merge_method": "linear",
        "models": [
            {"model": name, "parameters": {"weight": weight}} for name, weight in (("previous", 0.3), ("./two", 0.7))
        ],
    }
    requant("prune", "tiny", "two", "--sparsity", "0.3", "-q")
    requant("run", recipe([{"merge": linear}, {"prune": {"sparsity": "50%", "scope": "model"}}], output="./out"))
    requant("merge", "tiny", "two", "--method", "linear", "--weight", "0.3,0.7", "-o", "merged", "-q")
    requant("prune", "merged", "stepwise", "--sparsity", "50%", "--scope", "model", "-q")
    same("out", "stepwise")
    assert not any("README" in path.name for path in Path("out").iterdir())


def test_the_receipt_tells_what_went_in_and_out(here):
    document, code = printed(here, "run", recipe([{"prune": {"sparsity": "2:4"}}, {"quantize": {"to": "Q8_0"}}]))
    assert (document["document"], code) == ("pipeline receipt", 0)
    kept = json.loads(Path("out.gguf.receipt.json").read_text())
    assert kept["outputs"] == [
        {
            "file": "out.gguf",
            "bytes": Path("out.gguf").stat().st_size,
            "sha256": hashlib.sha256(Path("out.gguf").read_bytes()).hexdigest(),
        }
    ]
    weights = next(one for one in kept["inputs"] if one["file"].endswith("model.safetensors"))
    assert weights["sha256"] == hashlib.sha256(Path("tiny/model.safetensors").read_bytes()).hexdigest()
    assert [stage["stage"] for stage in kept["stages"]] == ["prune", "quantize"]


def test_what_is_done_is_done_once_and_what_has_changed_anew(here):
    file = recipe([{"quantize": {"to": "Q8_0"}}])
    requant("run", file)
    before = Path("out.gguf").stat()
    requant("run", file)
    assert Path("out.gguf").stat() == before
    Path("out.gguf.receipt.json").unlink()  # killed before it was written
    requant("run", file)
    assert Path("out.gguf").stat() == before and Path("out.gguf.receipt.json").exists()
    requant("prune", "tiny", "two", "--sparsity", "0.5", "-q")
    Path("two/model.safetensors").replace("tiny/model.safetensors")
    assert "out.gguf exists" in requant("run", file, code=4)
    requant("run", file, "--force")
    assert Path("out.gguf").stat().st_ino != before.st_ino
    same_name = recipe([{"quantize": {"to": "Q4_0"}}])
    assert "out.gguf exists" in requant("run", same_name, code=4)


def test_an_output_of_somebody_else_stays(here):
    Path("out.gguf").write_bytes(b"mine")
    assert "out.gguf exists" in requant("run", recipe([{"quantize": "Q8_0"}]), code=4)
    assert Path("out.gguf").read_bytes() == b"mine"


def test_a_dry_run_writes_nothing(here):
    before = sorted(here.rglob("*"))
    document, code = printed(here, "run", "recipe.yaml", "--dry-run")
    assert (document["document"], code) == ("pipeline", 0)
    assert document["plan"]["steps"] and document["told"]
    told = requant("run", "recipe.yaml", "to=Q8_0", "--dry-run")
    assert "2:4" in told and "to=Q8_0" in told
    assert "yet to be measured" in requant("run", "calibrated.yaml", "--dry-run")
    assert sorted(here.rglob("*")) == before


@pytest.mark.slow
def test_statistics_are_measured_once_and_weigh(here):
    told, _ = printed(here, "run", "calibrated.yaml", "--dry-run")
    (pending,) = told["pending"]
    types = {step["to"]: step["to_type"] for step in told["plan"]["steps"]}
    requant("run", "calibrated.yaml", "-q")
    kept = Path("out.gguf.run") / pending
    assert kept.exists()
    assert types_of("out.gguf") == types
    requant("prune", "tiny", "pruned", "--sparsity", "2:4", "-q")
    requant("merge", "pruned+./adapter", "-o", "merged", "-q")
    requant("calibrate", "merged", "-o", "stats.gguf", "--text", "text.txt", "--tokens", "128", "--ctx", "64", "-q")
    requant("convert", "merged", "stepwise.gguf", "--to", "Q4_K_M", "--imatrix", "stats.gguf", "-q")
    same("out.gguf", "stepwise.gguf")
    before = kept.stat()
    told, _ = printed(here, "run", "calibrated.yaml", "to=Q5_K_M", "output=five.gguf", "--work", "out.gguf.run")
    assert told["reused"] == [pending] and kept.stat() == before


@pytest.mark.slow
def test_hessians_are_kept_for_sparsegpt_and_feedback(here):
    """As the commands with one file of statistics, whose Hessians both read."""
    Path("long.txt").write_text(
        "".join(f"The rain in Spain stays for {n} days, and then another thing. " for n in range(200))
    )
    measured = {"hessians": True, "text": "long.txt", "tokens": 1024, "ctx": 64}
    thin = {"sparsity": "2:4", "method": "sparsegpt"}
    stages = [{"calibrate": measured}, {"prune": thin}, {"quantize": {"to": "Q4_0", "feedback": True}}]
    told, _ = printed(here, "run", recipe(stages), "--dry-run")
    (pending,) = told["pending"]
    requant("run", "r.yaml", "-q")
    kept = read_statistics(Path("out.gguf.run") / pending)
    words = ("--text", "long.txt", "--tokens", "1024", "--ctx", "64", "--hessians", "-q")
    requant("calibrate", "tiny", "-o", "stats.gguf", *words)
    asked = ("--stats", "stats.gguf", "-q")
    requant("prune", "tiny", "pruned", "--sparsity", "2:4", "--method", "sparsegpt", *asked)
    requant("convert", "pruned", "stepwise.gguf", "--to", "Q4_0", "--feedback", *asked)
    same("out.gguf", "stepwise.gguf")
    requant("convert", "pruned", "without.gguf", "--to", "Q4_0", *asked)
    assert any(not np.array_equal(values_of("out.gguf")[name], one) for name, one in values_of("without.gguf").items())
    assert kept.sums_of_outer_products == read_statistics(Path("stats.gguf")).sums_of_outer_products > 0
    assert set(types_of("out.gguf").items()) == {(step["to"], step["to_type"]) for step in told["plan"]["steps"]}


@pytest.mark.slow
def test_layers_of_least_influence_are_left_out(here):
    write_teacher(here / "deep", layers=4)
    stages = [{"calibrate": {"text": "text.txt", "tokens": 128, "ctx": 64}}, {"prune": {"layers": 2}}]
    told, _ = printed(here, "run", recipe(stages, "./deep"), "--dry-run")
    assert "prune: left out as of least influence: layers those yet to be measured" in told["told"]
    requant("run", "r.yaml", "-q")
    requant("calibrate", "deep", "-o", "stats.gguf", "--text", "text.txt", "--tokens", "128", "--ctx", "64", "-q")
    requant("prune", "deep", "stepwise.gguf", "--layers", "2", "--stats", "stats.gguf", "-q")
    same("out.gguf", "stepwise.gguf")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_ends_in_the_same_bytes(here):
    from tests.faults.pipeline_kills import tried

    Path("quick.yaml").write_text(Path("recipe.yaml").read_text().split("  - check")[0] + "output: $output\n")
    killed, pipelines = tried(8, 1, "quick.yaml")
    assert killed >= 8 and pipelines


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_published_recipe_plans(path, here):
    text = path.read_text()
    assert f"requant run recipes/{path.name}" in text
    for name in ("one", "two"):
        write_tiny_folder(here / name, seed=3)
    values = {
        "model": "./tiny",
        "base": "./tiny",
        "one": "./one",
        "two": "./two",
        "adapter": "./adapter",
        "layers": "1",
        "size": "100kB",
    }
    values |= {"output": "./out" if re.search("FP8|BITMASK|student", text) else "out.gguf"}
    inputs = recipe_inputs(text)
    words = [f"{name}={value}" for name, value in values.items() if name in inputs]
    document, code = printed(here, "run", str(path), *words, "--dry-run")
    assert code == 0, document
    assert document["plan"]["steps"]


def recipe_inputs(text):
    import yaml

    return yaml.safe_load(text)["inputs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: []", "has no output"),
        ("{stages: [], output: a.gguf}", "a list with something in it"),
        ("{stages: [quantize: Q8_0], output: a.gguf}", "names no model"),
        ("{model: ./tiny, stages: [quantise: Q8_0], output: a.gguf}", "no stage is called 'quantise'"),
        ("{model: ./tiny, stages: [quantize: {too: Q8_0}], output: a.gguf}", "no key is called 'too'"),
        ("{model: ./tiny, stages: [{quantize: Q8_0, prune: {sparsity: 0.5}}], output: a}", "must be one stage"),
        ("{model: ./tiny, stages: [{quantize: Q8_0}, {prune: {sparsity: 0.5}}], output: a}", "only check may"),
        ("{model: ./tiny, stages: [check, {quantize: Q8_0}], output: a}", "it comes last"),
        ("{model: ./tiny, stages: [{prune: {}}], output: a}", "prunes nothing"),
        ("{model: ./tiny, stages: [{prune: {sparsity: much}}], output: a}", "much"),
        ("{model: ./tiny, stages: [{prune: {sparsity: 0.5, method: wanda}}], output: a}", "needs what a calibration"),
        ("{model: ./tiny, stages: [{prune: {layers: 1}}], output: a}", "needs what a calibration"),
        ("{model: ./tiny, stages: [{prune: {layers: 1, drop_layers: 0}}], output: a}", "contradict each other"),
        ("{model: ./tiny, stages: [calibrate, {prune: {layers: 2}}], output: a}", "the model has 2, of which fewer"),
        (
            "{model: ./tiny, stages: [calibrate, {prune: {sparsity: 0.5, method: sparsegpt}}], output: a}",
            "prune: sparsegpt needs Hessians",
        ),
        (
            "{model: ./tiny, stages: [calibrate, {quantize: {to: Q4_0, feedback: true}}], output: a}",
            "feedback needs Hessians",
        ),
        ("{model: ./tiny, stages: [{calibrate: {hessians: 1}}], output: a}", "must be true or false"),
        ("{model: ./tiny, stages: [{check: {max_kl: 1}}], output: a}", "goes with against"),
        ("{model: ./tiny, stages: [{check: {ctx: many}}], output: a}", "must be a number"),
        ("{model: ./tiny, stages: [{merge: {merge_method: liner}}], output: a}", "no method is called"),
        ("{model: $who, stages: [check], output: a}", "no input is called 'who'"),
        ("{inputs: {who: null}, model: $who, stages: [check], output: a}", "who must be given"),
        ("{model: ./nobody, stages: [{quantize: Q8_0}], output: a.gguf}", "nobody"),
        ("{model: ./tiny, stages: [{quantize: Q9}], output: a.gguf}", "Q9"),
        ("[1, 2]", "must be a mapping"),
        ("{a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_told(text, message, here):
    Path("wrong.yaml").write_text(text)
    result = CliRunner().invoke(cli, ["run", "wrong.yaml", "--dry-run"], catch_exceptions=False)
    assert result.exit_code == (2 if "nobody" in text else 4)
    assert re.search(message, result.output), result.output


def test_inputs_keep_their_kinds():
    text = (
        "{inputs: {n: 4, name: x}, model: $name, stages: [{calibrate: {tokens: $n, text: '${name}.txt'}}], output: a$$}"
    )
    read = recipe_from(text, "r", {"n": "8"})
    assert read.stages[0].tokens == 8 and read.stages[0].texts == ("x.txt",)
    assert read.output == "a$" and read.model == "x"


def test_what_is_yet_to_be_measured_is_of_columns_that_are_alike():
    from requant.pipelines.made import _Unmeasured
    from requant.sources import read

    whole = read(_Unmeasured(5)).view("<f4")
    assert np.array_equal(whole.reshape(5, 5), np.eye(5))
    assert np.array_equal(read(_Unmeasured(5), 28, 96).view("<f4"), whole[7:24])


def test_digests_are_those_of_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    work = Work(tmp_path / "work")
    first = work.digests([path])[path]
    assert first == hashlib.sha256(b"one").hexdigest() == Work(tmp_path / "work").digests([path])[path]
    path.write_bytes(b"two")
    assert Work(tmp_path / "work").digests([path])[path] == hashlib.sha256(b"two").hexdigest()
    (tmp_path / "work/digests.json").write_text("{damaged")
    assert Work(tmp_path / "work").digests([path])[path] == hashlib.sha256(b"two").hexdigest()
