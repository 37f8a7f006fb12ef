"""`--explain`: what passes did, counted by comparing what each was given with what it made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.encodings import BLOCKS, F16, F32
from requant.expressions import Stacked, Stored
from requant.formats import FORMATS, detect
from requant.ir import Checkpoint, Naming, Tensor
from requant.losses import Loss, LossKind
from requant.operations.convert import Request, plan_conversion
from requant.passes.companions import FoldScales
from requant.passes.explained import chosen, did, explained
from requant.passes.layers import Fuse
from requant.passes.names import FileOrder
from requant.plan import Move, unchanged
from requant.sources import Memory
from tests.tiny_folder import write_tiny_folder


def tensor(name, *shape, encoding=F32):
    nbytes = sum(part.nbytes for part in encoding.parts(shape).values())
    return Tensor(name, shape, encoding, {"data": Memory(bytes(nbytes))})


def begun(architecture, *tensors, naming=Naming.GGML):
    return unchanged(Checkpoint(naming, architecture, tensors))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("explained") / "tiny")


def test_nothing_is_said_of_what_did_not_change():
    said = begun("llama", tensor("a", 2, 32))
    assert did(said, said) == {}


def test_tensors_that_are_left_out_added_or_placed_elsewhere():
    said = begun("llama", *(tensor(f"blk.{n}.attn_norm.weight", 8) for n in range(3)))
    a, b, c = said.moves
    assert did(said, replace(said, moves=(a, c))) == {"left_out": 1}
    assert did(replace(said, moves=(a, c)), replace(said, moves=(b, c))) == {"added": 1, "left_out": 1}
    assert did(said, replace(said, moves=(c, b, a))) == {"placed_elsewhere": 2}


def test_layers_that_are_numbered_anew_are_renamed():
    said = begun("llama", *(tensor(f"blk.{n}.attn_norm.weight", 8) for n in range(3)))
    assert did(said, FileOrder((0,))(said)) == {"renamed": 2, "left_out": 1}


def test_matrices_become_a_stack_and_come_out_of_it():
    matrices = [tensor(f"experts.{n}.up", 4, 32) for n in range(3)]
    apart = begun("x", *matrices, naming=Naming.HF)
    stack = Move("up", Stacked(tuple(Stored(matrix) for matrix in matrices)))
    assert did(apart, replace(apart, moves=(stack,))) == {"stacked": 1}
    whole = begun("x", tensor("up", 3, 4, 32))
    parts = tuple(Move(f"experts.{n}.up", whole.moves[0].values.section(4 * n, 4 * n + 4)) for n in range(3))
    assert did(whole, replace(whole, moves=parts)) == {"split": 3}


def test_projections_that_are_fused_again_are_joined():
    names = [f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qkv"]
    said = begun("phi3", *(tensor(name, 4, 32) for name in names), naming=Naming.HF)
    assert did(said, Fuse()(said)) == {"joined": 1}


def test_scales_beside_weights_are_folded_and_not_left_out():
    weight = tensor("blk.0.ffn_up_exps.weight", 2, 4, 64, encoding=BLOCKS["NVFP4"])
    said = begun("llama", weight, tensor("blk.0.ffn_up_exps.scale", 2))
    folded = FoldScales()(said)
    assert did(said, folded) == {"folded": 1}


def test_types_keys_and_losses_are_counted():
    said = begun("llama", tensor("a", 2, 32), tensor("b", 2, 32))
    typed = replace(said, encodings=(F16, BLOCKS["Q8_0"]), metadata={"x": 1, "y": 2}, files={"f": Memory(b"")})
    assert did(said, typed) == {"metadata_keys_added": 2, "files_added": 1}
    assert chosen(said, typed) == {"F16": 1, "Q8_0": 1} and chosen(typed, typed) == {}
    assert did(typed, replace(typed, metadata={"y": 3, "z": 4})) == {
        "metadata_keys_added": 1,
        "metadata_keys_changed": 1,
        "metadata_keys_removed": 1,
    }
    lost = said.losing(Loss(LossKind.SUSPECT, "x", "y"))
    assert did(said, lost) == {"losses": 1} and did(lost, said) == {"losses_taken_back": 1}


def test_a_folder_on_its_way_to_a_gguf(tiny):
    plan = plan_conversion(detect(tiny).read(tiny), FORMATS["gguf"], Path("out.gguf"), Request("Q4_K_M"))
    passes = explained(plan.passes)
    found = {one.name: one.did for one in passes}
    assert found["names"]["renamed"] == len(plan.steps) == 20
    assert found["names"]["values_moved"] == 4  # q and k of two layers
    assert {one.name: one.types for one in passes if one.types} == {"types": {"Q4_K": 12, "Q6_K": 3, "F32": 5}}
    assert found["steps"] == {"rounded": 15, "repacked": 5}
    assert found["layout"] == {"files_written": 1}


def run(*words):
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_is_printed_with_and_without_running(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in (["--dry-run"], [], ["--force", "--quiet"]):
        head, claim, *_ = run("convert", str(tiny), "out.gguf", "--to", "Q8_0", "--explain", *more).splitlines()
        assert head.split() == ["pass", "so", "that", "did"] and claim.split()[0] == "claim"
    lines = run("requantize", "out.gguf", "less.gguf", "Q4_0", "--prune-layers", "1", "--explain").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["claim", "names", "types"]
    assert all(len(line) <= 130 for line in lines)


def test_json_has_the_passes_only_where_they_are_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in (["--dry-run"], []):
        told = json.loads(run("convert", str(tiny), "out.gguf", "--to", "Q8_0", "--explain", "--json", *more))
        assert [one["name"] for one in told["passes"]][:3] == ["claim", "unwrap", "family"]
        assert told["passes"][4]["did"]["renamed"] == 20
    assert "passes" not in json.loads(run("convert", str(tiny), "other.gguf", "--json"))


def test_a_plan_shows_kinds_of_tensors_or_every_tensor(tmp_path, monkeypatch):
    """What is to be known comes first, in lines that do not grow with the model; --tensors prints them all."""
    write_tiny_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli, ["convert", "tiny", "a.gguf", "--to", "Q8_0", "--dry-run"]).stdout
    assert shown.startswith("reads ")
    assert "2  blk.*.attn_q.weight = rope(model.layers.*.self_attn.q_proj.weight)" in shown
    every = CliRunner().invoke(cli, ["convert", "tiny", "a.gguf", "--to", "Q8_0", "--dry-run", "--tensors"]).stdout
    for layer in range(2):
        assert f"blk.{layer}.attn_q.weight = rope(model.layers.{layer}.self_attn.q_proj.weight)\n" in every
    counts = [int(line.split()[4]) for line in shown.partition("count")[2].splitlines()[1:]]
    assert sum(counts) == len(every.partition("tensor\n")[2].splitlines())
