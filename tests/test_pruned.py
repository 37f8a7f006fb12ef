"""`--prune-layers` of `convert` leaves out what `requantize` does, which is held to llama-quantize elsewhere."""

import numpy as np
import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.formats import open as open_model
from requant.sources import read
from tests.tiny_folder import write_tiny_folder


def run(*words):
    said = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert said.exit_code == 0, said.output


def stored(path):
    return {tensor.name: read(tensor.sources["data"]).tobytes() for tensor in open_model(path).tensors}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder, the same as a GGUF, and an importance matrix in which every layer is another."""
    gguf = pytest.importorskip("gguf")
    root = tmp_path_factory.mktemp("pruned")
    write_tiny_folder(root / "tiny")
    run("convert", root / "tiny", root / "whole.gguf", "--to", "F32", "-q")
    writer = gguf.GGUFWriter(root / "imatrix.gguf", "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 8)
    random = np.random.default_rng(0)
    for tensor in open_model(root / "whole.gguf").tensors:
        if "blk." in tensor.name and len(tensor.shape) == 2:
            sums = random.uniform(0, 100, tensor.shape[1:]).astype(np.float32) ** 4
            writer.add_tensor(f"{tensor.name}.in_sum2", sums[None])
            writer.add_tensor(f"{tensor.name}.counts", np.float32([[8]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return root


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("weighed", [False, True])
def test_the_same_tensors_stay(models, tmp_path, layer, weighed):
    more = ["--pure", "--prune-layers", layer, "-q"] + (["--imatrix", models / "imatrix.gguf"] if weighed else [])
    run("requantize", models / "whole.gguf", tmp_path / "theirs.gguf", "Q4_0", *more)
    theirs = stored(tmp_path / "theirs.gguf")
    for source in ("tiny", "whole.gguf"):
        run("convert", models / source, tmp_path / "ours.gguf", "--to", "Q4_0", "--force", *more)
        ours = stored(tmp_path / "ours.gguf")
        assert ours.keys() == theirs.keys() and len(ours) == 11
        assert [name for name in ours if ours[name] != theirs[name] and "embd" not in name] == []
        assert open_model(tmp_path / "ours.gguf").metadata["llama.block_count"].value == 1


def test_the_importance_makes_a_difference(models, tmp_path):
    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    words = ["--to", "Q4_0", "--pure", "--prune-layers", "0", "-q"]
    run("convert", models / "tiny", plain, *words)
    run("convert", models / "tiny", weighed, *words, "--imatrix", models / "imatrix.gguf")
    assert stored(plain) != stored(weighed)
