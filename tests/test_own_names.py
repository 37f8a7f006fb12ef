"""What a folder may hold: tensors that the class of its model has, by the family's own names."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from requant.architectures import own_names
from requant.encodings import F32
from requant.errors import PlanError
from requant.expressions import Stored
from requant.formats import FORMATS, detect
from requant.ir import Tensor
from requant.operations.convert import Request, plan_conversion
from requant.plan import Move
from requant.sources import Memory
from tests.test_architectures_tables import FAMILIES
from tests.tiny_folder import write_tiny_folder
from tests.tiny_models import MODELS, make


def moves_of(names, shape=(1, 1)):
    data = Memory(bytes(4 * int(np.prod(shape))))
    return [Move(name, Stored(Tensor(name, shape, F32, {"data": data}))) for name in names]


#: What config.json says beside class and model_type, of families that share both.
SUITING = {
    "llada-moe": {"num_experts": 4},
    "nomic-bert-moe": {"moe_every_n_layers": 2},
    "gemma-embedding": {"use_bidirectional_attention": True},
    "nemotron_h": {"layers_block_type": ["mlp"]},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_a_family_is_claimed(name):
    family = FAMILIES[name]
    model_type = family.model_type
    config = {"architectures": [family.classes[0]], "model_type": model_type, **SUITING.get(family.ggml, {})}
    names = list(dict.fromkeys(name for rule in family.rules for name in _filled(family, rule.hf)))
    assert [move.name for move in own_names(moves_of(names), config, model_type, single=True)] == names
    with pytest.raises(PlanError, match=r"'model\.unheard\.merger\.weight' does not belong to a"):
        own_names(moves_of([*names, "model.unheard.merger.weight"]), config, model_type, single=True)


VARIANTS = [pytest.param(name, marks=pytest.mark.slow) if "-" in name else name for name in MODELS]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_of_every_family_becomes_one_of_another_type(name, tmp_path):
    """What sees or hears included, and tensors that no table but a function reads."""
    make(name, tmp_path / "m")
    source = detect(tmp_path / "m").read(tmp_path / "m")
    steps = plan(tmp_path / "m", "BF16").steps
    experts = re.compile(r"\.experts\.|_exps|switch_mlp|\.mlp\.(gate_up|down)_proj|block_sparse_moe|_linear\.weight")
    there = {tensor.name for tensor in source.tensors if not experts.search(tensor.name)}
    assert there <= {step.target.name for step in steps}


def _filled(family, template):
    return [template.format(base=base, n=n, e=e) for base in family.bases for n in (0, 11) for e in (0, 3)]


def folder_with(tmp_path, name, **changes):
    folder = write_tiny_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ones((4, 4), np.float32)}, folder / "other.safetensors")
    shards = {"model.norm.weight": "model.safetensors", name: "other.safetensors"}
    tensors = {t.name: "model.safetensors" for t in detect(folder).read(folder).tensors}
    index = {"metadata": {}, "weight_map": {**tensors, **shards}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def plan(folder, recipe):
    source = detect(folder).read(folder)
    return plan_conversion(source, FORMATS["safetensors"], folder.parent / "out", Request(recipe))


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.fc1.weight", "value_head.weight", "model.layers.0.self_attn.q_norm.weight"]
)
def test_a_tensor_that_the_class_does_not_have_stops_what_is_asked_for(tmp_path, name):
    folder = folder_with(tmp_path, name)
    for recipe in ("BF16", "GPTQ-4-128"):
        with pytest.raises(PlanError, match="does not belong to a llama model"):
            plan(folder, recipe)
    assert name in {step.target.name for step in plan(folder, None).steps}  # a copy is what it was


def test_other_classes_have_other_tensors(tmp_path):
    folder = folder_with(tmp_path, "score.weight", architectures=["LlamaForTokenClassification"])
    assert "score.weight" in {step.target.name for step in plan(folder, "BF16").steps}


@pytest.mark.parametrize(
    ("names", "whose"),
    [
        (["tok_embeddings.weight", "layers.0.attention.wq.weight"], "Mistral's or Meta's own"),
        (["model.embed_tokens.weight", "model.layers.0.self_attention.linear_qkv.weight"], "Megatron's"),
        (["model.embed_tokens.weight", "model.language_model.encoder.layers.0.mlp.dense_h_to_4h.weight"], "Megatron's"),
        (["model.embed_tokens.weight", "model.layers.0.mlp.switch_glu.gate_proj.weight"], "MLX's"),
    ],
)
def test_a_gguf_of_other_libraries_names_is_refused_by_name(tmp_path, names, whose):
    folder = write_tiny_folder(tmp_path / "m")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    arrays = {name: np.ones((vocabulary if "embed" in name else 256, 256), np.float32) for name in names}
    arrays |= {f"filler.{n}": np.ones(1, np.float32) for n in range(8)}
    save_file(arrays, folder / "model.safetensors")
    source = detect(folder).read(folder)
    with pytest.raises(PlanError, match=f"{names[-1]}|{names[0]}") as error:
        plan_conversion(source, FORMATS["gguf"], tmp_path / "m.gguf", Request("BF16", vocabulary=False))
    assert whose in str(error.value) and "shard" not in error.value.hint
