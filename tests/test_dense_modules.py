"""sentence-transformers' Dense modules: into a GGUF where llama.cpp has a place for them, and back."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.errors import PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from requant.verify.llama_cpp import LlamaCpp
from tests.published import random
from tests.test_architectures_run import agree, to_gguf, tokens
from tests.tiny_models import make

CLASS = "sentence_transformers.models."
PLAIN = "torch.nn.modules.linear.Identity"


def with_modules(folder, kinds, **weights):
    """The folder with modules in subfolders, each with its weights and what its config.json says of them."""
    said = [{"idx": n, "path": path, "type": CLASS + kind} for n, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(said))
    for path in filter(None, kinds):
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    for path, weight in weights.items():
        place = folder / path.lstrip("_")
        save_file({"linear.weight": weight}, place / "model.safetensors")
        rows, columns = weight.shape
        config = {"in_features": columns, "out_features": rows, "bias": False, "activation_function": PLAIN}
        (place / "config.json").write_text(json.dumps(config))


@pytest.fixture
def embedding(tmp_path):
    """A small EmbeddingGemma with its two matrices, and what transformers computes without them."""
    model = make("gemmaembedding", tmp_path / "hf")
    kinds = {
        "": "Transformer",
        "1_Pooling": "Pooling",
        "2_Dense": "Dense",
        "3_Dense": "Dense",
        "4_Normalize": "Normalize",
    }
    weights = {"_2_Dense": random("two", (160, 64)), "_3_Dense": random("three", (64, 160))}
    with_modules(tmp_path / "hf", kinds, **weights)
    return model, weights


def test_embeddings_are_those_behind_the_modules(embedding, tmp_path):
    model, weights = embedding
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf", encoder=True)
    text = tokens(60)
    with LlamaCpp(path, n_ctx=64, embeddings=True, precise=True) as runtime:
        ours = runtime.embed(text)
    with torch.inference_mode():
        pooled = model(torch.tensor([text])).last_hidden_state[0].mean(dim=0)
        theirs = pooled @ weights["_2_Dense"].T @ weights["_3_Dense"].T
    agree(ours[:1], theirs.numpy()[None])


def test_tensors_and_keys_are_those_of_the_converter_of_llama_cpp(embedding, tmp_path):
    """As with its option --sentence-transformers-dense-modules."""
    _, weights = embedding
    reader = gguf.GGUFReader(to_gguf(tmp_path / "hf", tmp_path / "model.gguf", encoder=True))
    found = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name.startswith("dense")}
    assert {name: data.shape for name, data in found.items()} == {
        "dense_2.weight": (160, 64),
        "dense_3.weight": (64, 160),
    }
    assert np.array_equal(found["dense_2.weight"], weights["_2_Dense"].numpy())
    sizes = {key: reader.fields[f"gemma-embedding.{key}"].contents() for key in ("dense_2_feat_in", "dense_2_feat_out")}
    assert sizes == {"dense_2_feat_in": 64, "dense_2_feat_out": 160}
    assert reader.fields["gemma-embedding.dense_3_feat_out"].contents() == 64


def test_back_in_their_folders(embedding, tmp_path):
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf", encoder=True)
    execute(plan_conversion(Gguf().read(path), Safetensors(), tmp_path / "back", Request()))
    for name in ("2_Dense", "3_Dense"):
        before, after = (load_file(tmp_path / side / name / "model.safetensors") for side in ("hf", "back"))
        assert torch.equal(before["linear.weight"], after["linear.weight"])
        said = [json.loads((tmp_path / side / name / "config.json").read_text()) for side in ("hf", "back")]
        assert said[0] == said[1]
    modules = json.loads((tmp_path / "back/modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense", "3_Dense"]
    assert not any("Dense" in name for name in load_file(tmp_path / "back/model.safetensors"))
    again = to_gguf(tmp_path / "back", tmp_path / "again.gguf", encoder=True)
    names = [[tensor.name for tensor in Gguf().read(one).tensors] for one in (path, again)]
    assert names[0] == names[1]


def test_from_folder_to_folder_they_are_carried_along(embedding, tmp_path):
    execute(plan_conversion(Safetensors().read(tmp_path / "hf"), Safetensors(), tmp_path / "copy", Request("BF16")))
    before, after = ((tmp_path / side / "2_Dense/model.safetensors").read_bytes() for side in ("hf", "copy"))
    assert before == after


def test_a_matrix_of_lfm2_there_and_back(tmp_path):
    make("lfm2", tmp_path / "hf")
    with_modules(tmp_path / "hf", {"": "Transformer", "1_Dense": "Dense"}, _1_Dense=random("one", (32, 64)))
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    checkpoint = Gguf().read(path)
    assert checkpoint.metadata["lfm2.embedding_length_out"].value == 32
    assert next(tensor.shape for tensor in checkpoint.tensors if tensor.name == "dense_2.weight") == (32, 64)
    execute(plan_conversion(checkpoint, Safetensors(), tmp_path / "back", Request()))
    before, after = (load_file(tmp_path / side / "1_Dense/model.safetensors") for side in ("hf", "back"))
    assert torch.equal(before["linear.weight"], after["linear.weight"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_features": 63}, "shape"),
        ({"out_features": None}, "shape"),
    ],
)
def test_a_config_that_contradicts_its_weights(changes, told, embedding, tmp_path):
    path = tmp_path / "hf/2_Dense/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(PlanError, match=told):
        to_gguf(tmp_path / "hf", tmp_path / "model.gguf")


def test_modules_that_do_not_follow_each_other(embedding, tmp_path):
    weight = random("narrow", (64, 96))
    save_file({"linear.weight": weight}, tmp_path / "hf/3_Dense/model.safetensors")
    path = tmp_path / "hf/3_Dense/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_features": 96}))
    with pytest.raises(PlanError, match="160 numbers come in"):
        to_gguf(tmp_path / "hf", tmp_path / "model.gguf")


def test_weights_that_are_not_here(embedding, tmp_path):
    (tmp_path / "hf/2_Dense/model.safetensors").unlink()
    with pytest.raises(PlanError, match=r"2_Dense/model\.safetensors"):
        to_gguf(tmp_path / "hf", tmp_path / "model.gguf")


def test_an_activation_is_lost(embedding, tmp_path):
    path = tmp_path / "hf/3_Dense/config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"activation_function": "torch.nn.modules.activation.Tanh"})
    )
    plan = plan_conversion(Safetensors().read(tmp_path / "hf"), Gguf(), tmp_path / "m.gguf", Request(vocabulary=False))
    assert "3_Dense" in {loss.subject for loss in plan.losses}
