"""`requant extract`: parts of a model as files of their own, beside what other libraries read of it."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from gguf.quants import dequantize
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from requant.cli.main import cli
from requant.formats.imatrix import read_imatrix
from tests.tiny_folder import write_tiny_folder

IMATRIX = Path(__file__).parents[1] / "fixtures/imatrix/experts.gguf"


def run(*words, code=0):
    result = CliRunner().invoke(cli, ["extract", *map(str, words)])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_tiny_folder(tmp_path_factory.mktemp("extract") / "tiny")
    for recipe, name in (("Q4_K_M", "tiny.gguf"), ("GPTQ", "gptq")):
        result = CliRunner().invoke(cli, ["convert", str(path), str(path.parent / name), "--to", recipe])
        assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def model(folder):
    return folder.parent / "tiny.gguf"


def test_decoded_tensors_are_those_of_the_reference(model, tmp_path):
    run(model, tmp_path / "all.safetensors")
    found = load_file(tmp_path / "all.safetensors")
    tensors = gguf.GGUFReader(model).tensors
    assert {tensor.name for tensor in tensors} == set(found)
    for tensor in tensors:
        expected = dequantize(tensor.data, tensor.tensor_type)
        assert found[tensor.name].dtype == np.float32 and np.array_equal(found[tensor.name], expected)


def test_raw_tensors_are_the_bytes_of_the_reference(model, tmp_path):
    run(model, tmp_path / "raw.safetensors", "--raw", "--only", r"blk\.0\.")
    found = load_file(tmp_path / "raw.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    assert len(found) == 9
    for name, array in found.items():
        assert np.array_equal(array.view(np.uint8), tensors[name].data.view(np.uint8))


def test_one_tensor_to_a_numpy_file(model, tmp_path):
    run(model, tmp_path / "q.npy", "--only", r"blk\.1\.attn_q\.")
    run(model, tmp_path / "raw.npy", "--only", r"blk\.1\.attn_q\.", "--raw")
    (tensor,) = (one for one in gguf.GGUFReader(model).tensors if one.name == "blk.1.attn_q.weight")
    assert np.array_equal(np.load(tmp_path / "q.npy"), dequantize(tensor.data, tensor.tensor_type))
    assert np.array_equal(np.load(tmp_path / "raw.npy"), tensor.data)


def test_quantized_layers_of_a_folder(folder, tmp_path):
    source = folder.parent / "gptq"
    stored = load_torch(source / "model.safetensors")
    run(source, tmp_path / "raw.safetensors", "--raw", "--only", r"layers\.0\.self_attn\.q_proj")
    raw = load_torch(tmp_path / "raw.safetensors")
    assert {name.rpartition(".")[2] for name in raw} == {"qweight", "qzeros", "scales", "g_idx"}
    assert all(torch.equal(array, stored[name]) for name, array in raw.items())
    run(source, tmp_path / "q.npy", "--only", r"layers\.0\.self_attn\.q_proj")
    original = np.load(tmp_path / "q.npy")
    run(folder, tmp_path / "plain.npy", "--only", r"layers\.0\.self_attn\.q_proj")
    plain = np.load(tmp_path / "plain.npy")
    assert 0 < np.abs(original - plain).max() < 0.05


def test_what_is_no_number_stays_what_it_is(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "odd")
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1.0], np.float16)
    writer.add_tensor("odd", odd)
    writer.add_tensor("ids", np.arange(5, dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    run(tmp_path / "odd.gguf", tmp_path / "odd.safetensors")
    found = load_file(tmp_path / "odd.safetensors")
    assert np.array_equal(found["odd"].view(np.uint32), odd.astype(np.float32).view(np.uint32))
    assert found["ids"].dtype == np.int32 and found["ids"].tolist() == [0, 1, 2, 3, 4]
    run(tmp_path / "odd.gguf", tmp_path / "raw.npy", "--only", "odd", "--raw")
    assert np.array_equal(np.load(tmp_path / "raw.npy").view(np.uint16), odd.view(np.uint16))
    run(tmp_path / "odd.gguf", tmp_path / "mended.npy", "--only", "odd", "--replace-nan", "7")
    assert np.load(tmp_path / "mended.npy").tolist() == [7, 7, 7, 0, 1]


@pytest.mark.parametrize("which", ["folder", "model"])
def test_the_tokenizer_loads_and_says_the_same(which, folder, model, tmp_path):
    run(folder if which == "folder" else model, tmp_path / "tokenizer", "--tokenizer")
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(path) for path in (tmp_path / "tokenizer", folder))
    text = "the cat in the attic"
    assert ours.tokenize(text) == theirs.tokenize(text)


def test_templates_and_configuration(folder, tmp_path):
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")
    run(folder, tmp_path / "chat.jinja", "--template")
    assert (tmp_path / "chat.jinja").read_text() == "{{ messages }}\n"
    run(folder, tmp_path / "templates", "--template")
    assert [path.name for path in (tmp_path / "templates").iterdir()] == ["default.jinja"]
    (folder / "chat_template.jinja").unlink()
    assert "there is no chat template" in run(folder, tmp_path / "none.jinja", "--template", code=4).stderr


@pytest.mark.parametrize("which", ["folder", "model"])
def test_the_configuration_is_that_of_the_folder(which, folder, model, tmp_path):
    run(folder if which == "folder" else model, tmp_path / "config.json", "--config")
    if which == "folder":
        assert (tmp_path / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    original = json.loads((folder / "config.json").read_text())
    found = json.loads((tmp_path / "config.json").read_text())
    same = ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    assert {key: found[key] for key in same} == {key: original[key] for key in same}


def test_means_of_an_importance_matrix(tmp_path):
    run(IMATRIX, tmp_path / "means.safetensors", "--importance")
    importance, found = read_imatrix(IMATRIX), load_file(tmp_path / "means.safetensors")
    assert set(found) == set(importance.entries)
    for name, array in found.items():
        assert np.array_equal(array.reshape(-1), importance.weights(name).reshape(-1))
    run(IMATRIX.with_suffix(".dat"), tmp_path / "sums.safetensors", "--only", "attn_q")
    assert len(load_file(tmp_path / "sums.safetensors")) == 4


@pytest.mark.parametrize("path", [IMATRIX, IMATRIX.with_suffix(".dat")])
@pytest.mark.parametrize("part", ["config", "template", "tokenizer"])
def test_an_importance_matrix_has_no_parts_of_a_model(tmp_path, path, part):
    assert f"is an importance matrix, which has no {part}" in run(path, tmp_path / "x", f"--{part}", code=4).stderr


@pytest.mark.parametrize("command", ["diff {} {}", "hash {}", "validate {}", "convert {} x.gguf", "split {} x"])
def test_an_old_importance_matrix_is_no_model_and_is_told_what_to_do(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli, command.replace("{}", str(IMATRIX.with_suffix(".dat"))).split())
    assert said.exit_code == 3 and "hint: requant inspect shows it" in said.stderr


def test_nothing_is_replaced_without_being_asked(model, tmp_path):
    (tmp_path / "q.npy").write_bytes(b"mine")
    words = (model, tmp_path / "q.npy", "--only", r"blk\.1\.attn_q\.")
    assert "--force replaces it" in run(*words, code=4).stderr and (tmp_path / "q.npy").read_bytes() == b"mine"
    run(*words, "--force")
    assert np.load(tmp_path / "q.npy").shape == (256, 256)
    run(*words, "--force", "--dry-run")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["x.npy"], 4, ".npy holds one array, and 20 are to be written"),
        (["x.bin"], 4, "tensors become .npy or .safetensors files"),
        (["x.npy", "--only", "nothing"], 4, "no name of its 20 tensors contains a match"),
        (["x.safetensors", "--tokenizer"], 4, "files cannot be written under such a name"),
        (["x.json", "--tokenizer"], 4, "hint: name a folder, such as"),
        (["x.npy", "--config"], 4, "config.json cannot be written under such a name"),
        (["x", "--tokenizer", "--template"], 2, "one thing at a time"),
        (["x", "--config", "--raw"], 2, "one thing at a time"),
        (["x.safetensors", "--importance"], 2, "imatrix.datasets"),
    ],
)
def test_what_makes_no_sense_is_an_error(model, tmp_path, words, code, said):
    assert said in run(model, tmp_path / words[0], *words[1:], code=code).output
    assert not list(tmp_path.iterdir())
