"""Sparse forms of compressed-tensors that we write: what version 0.12.2 makes of the same, and reads of ours."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from requant.codecs import codec_for
from requant.encodings.sparse import Marlin24
from requant.errors import UnsupportedError
from tests.command import run
from tests.models import compressed_tensors_sparse
from tests.test_sparse import GOLDEN, TILES
from tests.tiny_folder import write_tiny_folder


def requant(*arguments, code=0):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("name", TILES)
def test_tiles_are_those_of_compressed_tensors(name):
    """Values of the golden vectors, encoded again by their codes: every byte."""
    golden, encoding = np.load(GOLDEN / f"{name}.npz"), Marlin24(*TILES[name])
    stored = {"packed": golden["weight_packed"], "scales": golden["scale_packed"], "meta": golden["meta"]}
    codec, rows = codec_for(encoding), len(golden["codes_out_in"])
    out = {name: np.zeros_like(array) for name, array in stored.items()}
    for start in range(0, rows, 64):
        codec.pack(codec.unpack(stored, 64, start), out, start)
    for part, array in stored.items():
        assert out[part].tobytes() == array.tobytes(), part


def test_a_dense_weight_makes_no_tiles():
    encoding = Marlin24(4, -1)
    parts = {n: np.zeros(p.shape, p.dtype.numpy) for n, p in encoding.parts((64, 64)).items()}
    with pytest.raises(UnsupportedError, match="more than two of four"):
        codec_for(encoding).encode(np.random.default_rng(0).standard_normal((64, 64), np.float32), parts)


def weights(folder):
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("sparse") / "tiny")


READ = """
import json, sys
from compressed_tensors.compressors.sparse_compressors import BitmaskCompressor, Sparse24BitMaskCompressor
from compressed_tensors.config import SparsityCompressionConfig
from safetensors.torch import save_file
folder, form, target = sys.argv[1:]
config = SparsityCompressionConfig.load_from_registry(form, **{
    k: v for k, v in json.load(open(folder + "/config.json"))["quantization_config"]["sparsity_config"].items()
    if k != "format"})
kind = {"sparse-bitmask": BitmaskCompressor, "sparse-24-bitmask": Sparse24BitMaskCompressor}[form]
found = dict(kind(config=config).decompress(folder + "/model.safetensors"))
save_file({name: tensor.contiguous() for name, tensor in found.items()}, target)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "form", "options"),
    [
        ("BITMASK", "sparse-bitmask", ("--sparsity", "60%", "--scope", "row")),
        ("BITMASK", "sparse-bitmask", ("--sparsity", "50%", "--scope", "model")),
        ("BITMASK-24", "sparse-24-bitmask", ("--sparsity", "2:4")),
    ],
)
def test_compressed_tensors_decompresses_to_the_same_values(model, tmp_path, recipe, form, options):
    library = compressed_tensors_sparse()
    requant("prune", model, tmp_path / "dense", *options, "-q")
    requant("prune", model, tmp_path / "sparse", *options, "--to", recipe, "-q")
    words = [sys.executable, "-c", READ, tmp_path / "sparse", form, tmp_path / "theirs.safetensors"]
    done = subprocess.run(words, env={"PYTHONPATH": str(library), "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted, theirs = weights(tmp_path / "dense"), load_file(tmp_path / "theirs.safetensors")
    assert wanted.keys() == theirs.keys()
    for name, tensor in wanted.items():
        assert torch.equal(theirs[name].float(), tensor), name
    stored = load_file(tmp_path / "sparse" / "model.safetensors")
    assert sum(name.endswith(".compressed") for name in stored) == 14


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("BITMASK", ("--sparsity", "70%")), ("BITMASK-24", ("--sparsity", "2:4"))],
)
def test_there_and_back(model, tmp_path, recipe, options):
    """Smaller than dense, and the same values; straight, and by way of a dense folder."""
    requant("prune", model, tmp_path / "dense", *options, "-q")
    told = requant("prune", model, tmp_path / "sparse", *options, "--to", recipe)
    assert "up to 0.12" in told
    requant("convert", tmp_path / "dense", tmp_path / "again", "--to", recipe, "-q")
    requant("convert", tmp_path / "sparse", tmp_path / "back", "--to", "BF16", "-q")
    one, two = (tmp_path / name / "model.safetensors" for name in ("sparse", "again"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < (tmp_path / "dense" / "model.safetensors").stat().st_size
    wanted, back = weights(tmp_path / "dense"), weights(tmp_path / "back")
    assert all(torch.equal(back[name], tensor) for name, tensor in wanted.items())
    config = json.loads((tmp_path / "sparse" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and "lm_head" in config["sparsity_config"]["ignore"]


@pytest.mark.parametrize(("recipe", "packed"), [("MARLIN24", "W4A16"), ("MARLIN24-8--1", "W8A16")])
def test_marlin_24_is_the_packed_form_in_tiles(model, tmp_path, recipe, packed):
    """The same codes and scales, of a model in F16, which is what tiles have scales in."""
    requant("prune", model, tmp_path / "dense", "--sparsity", "2:4", "--to", "F16", "-q")
    for name in (recipe, packed):
        requant("convert", tmp_path / "dense", tmp_path / name, "--to", name, "-q")
        requant("convert", tmp_path / name, tmp_path / f"{name}-back", "--to", "F16", "-q")
    requant("prune", tmp_path / "dense", tmp_path / "straight", "--sparsity", "2:4", "--to", recipe, "-q")
    straight, tiles = (tmp_path / name / "model.safetensors" for name in ("straight", recipe))
    assert straight.read_bytes() == tiles.read_bytes()
    one, two, dense = (weights(tmp_path / name) for name in (f"{recipe}-back", f"{packed}-back", "dense"))
    stored = [name.replace("scale_packed", "weight") for name in load_file(tiles) if name.endswith("scale_packed")]
    assert len(stored) >= 10
    for name in stored:
        assert torch.equal(one[name], two[name]) and not torch.equal(one[name], dense[name]), name


def test_what_is_not_sparse_stays_dense_or_is_refused(model, tmp_path):
    told = requant("convert", model, tmp_path / "out", "--to", "BITMASK-24", code=4)
    assert "no layer of the model can be stored as BITMASK-24" in told and "--sparsity" in told
    told = requant("convert", model, tmp_path / "out", "--to", "MARLIN24-4--1", code=4)
    assert "more than two of four neighbours" in told
    told = requant("prune", model, tmp_path / "out", "--sparsity", "2:4", "--skip", "q_proj", "--to", "BITMASK-24")
    assert "BF16 instead of BITMASK-24: more than two of four" in told
    told = requant("convert", model, tmp_path / "no", "--to", "MARLIN24-3", code=4)
    assert "is not understood" in told
