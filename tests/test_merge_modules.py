"""Models of several stacks of layers beside mergekit 0.1.5: `fixtures/merging/modules.json`, made as its maker says."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from requant.cli.main import cli
from requant.errors import PlanError
from requant.merging.modules import config_of, kinds_of, main_stack, members_of, stacks_of

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "merging" / "modules.json").read_text())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_models(case):
    """Tensors of one value, 0 in `a` and 1 in `b`."""
    for value, model in enumerate("ab"):
        Path(model).mkdir()
        Path(model, "config.json").write_text(json.dumps(case["config"]))
        save_file({name: torch.full((1,), float(value)) for name in case["names"]}, Path(model, "model.safetensors"))


def merge(recipe, *more, code=0):
    Path("r.json.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(cli, ["merge", "r.json.yaml", "-o", "out", "-q", *more], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("name", FIXTURE)
def test_what_mergekit_makes_of_modules(here, name):
    case = FIXTURE[name]
    write_models(case)
    merge(case["recipe"])
    made = {key: round(float(tensor), 6) for key, tensor in load_file("out/model.safetensors").items()}
    assert {key: made.get(key) for key in case["values"]} == case["values"]
    # what mergekit leaves out stays as the first model has it
    assert {key: value for key, value in made.items() if key not in case["values"]} == {
        key: 0.0 for key in case["names"] if key not in case["values"] and key in made
    }
    config = json.loads(Path("out/config.json").read_text())
    for key, count in case["counts"].items():
        part, _, last = key.rpartition(".")
        assert (config[part] if part else config).get(last, count) == count, key


def test_a_module_that_is_not_named_stays(here):
    case = FIXTURE["gemma3"]
    write_models(case)
    models = [{"model": "b", "parameters": {"weight": 1}}]
    merge({"merge_method": "linear", "base_model": "a", "modules": {"vision_model": {"models": models}},
           "parameters": {"weight": 0}})  # fmt: skip
    made = load_file("out/model.safetensors")
    assert made.keys() == set(case["names"])
    assert {key for key, tensor in made.items() if float(tensor)} == {k for k in made if k.startswith("vision_tower.")}


def test_layers_of_the_text_model_are_kept_by_their_numbers(here):
    case = FIXTURE["gemma3"]
    write_models(case)
    result = CliRunner().invoke(cli, ["merge", "b", "--keep-layers", "2,0", "-o", "out", "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    stacks = stacks_of(load_file("out/model.safetensors"))
    assert stacks == {"language_model.model.layers": 2, "vision_tower.vision_model.encoder.layers": 5}
    config = json.loads(Path("out/config.json").read_text())
    assert (config["text_config"]["num_hidden_layers"], config["vision_config"]["num_hidden_layers"]) == (2, 5)


CUT = [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]


@pytest.mark.parametrize(
    ("recipe", "message", "hint"),
    [
        ({"slices": CUT}, "layers are chosen of what lies in several stacks of layers", "text_decoder"),
        ({"modules": {"vision_tower": {"slices": CUT}}}, "cannot be left out, repeated or moved", "models instead"),
        ({"modules": {"multi_modal_projector": {"slices": CUT}}}, "layers are chosen of what lies in no layers", ""),
        ({"modules": {"text_decode": {"models": [{"model": "a"}]}}}, "no module of these models", "text_decoder?"),
        ({"modules": {"wings": {"models": [{"model": "a"}]}}}, "no module of these models", "vision_tower"),
        ({"modules": {"text_decoder": {"models": [{"model": "a"}], "slices": CUT}}}, "has one of models and", ""),
        ({"modules": {}}, "modules: must be a mapping with something in it", ""),
        ({"modules": {"vision_tower": {"models": [{"model": "a"}], "base_model": "a"}}}, "'base_model'", ""),
    ],
)
def test_modules_that_are_none(here, recipe, message, hint):
    write_models(FIXTURE["gemma3"])
    output = merge({"merge_method": "passthrough", **recipe}, code=4)
    assert message in output
    assert hint in output


def test_models_of_which_one_stack_is_deeper(here):
    case = FIXTURE["t5"]
    write_models(case)
    tensors = {k: v for k, v in load_file("b/model.safetensors").items() if not k.startswith("decoder.block.4.")}
    save_file(tensors, "b/model.safetensors")
    assert "the models have 4 and 5 layers in decoder.block" in merge(case["recipe"], code=4)


def test_modules_by_names():
    names = [
        *("model.language_model.layers.0.mlp.up_proj.weight", "model.language_model.embed_tokens.weight"),
        *("model.visual.blocks.0.norm1.weight", "model.visual.merger.mlp.0.weight", "lm_head.weight"),
        *("model.visual.deepstack_merger_list.0.norm.weight", "model.multi_modal_projector.linear_1.weight"),
    ]
    kind = kinds_of(names)
    assert [kind(name) for name in names] == [
        *("text_decoder", "text_decoder", "vision_tower", "multi_modal_projector", "text_decoder"),
        *("multi_modal_projector", "multi_modal_projector"),
    ]
    assert main_stack(names) == "model.language_model.layers"
    members, _ = members_of(names, ["default", "model.visual.blocks"])
    assert members["model.visual.blocks"] == (names[2],)
    assert len(members["default"]) == len(names) - 1
    assert stacks_of(["encoder.block.3.layer.1.DenseReluDense.wi.weight", "shared.weight"]) == {"encoder.block": 4}
    assert main_stack(["shared.weight"]) is None


def test_counts_of_encoders_and_decoders():
    names = ["model.encoder.layers.1.fc1.weight", "model.decoder.layers.2.fc1.weight", "proj_out.weight"]
    whisper = {"encoder_layers": 2, "decoder_layers": 3, "num_hidden_layers": 2}
    cut = config_of(
        whisper, names, {"model.encoder.layers": [(whisper, 0)], "model.decoder.layers": [(whisper, 2)] * 2}
    )
    assert cut == {"encoder_layers": 1, "decoder_layers": 2, "num_hidden_layers": 1}
    t5 = {"num_layers": 2}
    names = ["encoder.block.1.layer.0.layer_norm.weight", "decoder.block.1.layer.0.layer_norm.weight"]
    assert config_of(t5, names, {"encoder.block": [(t5, 1)]}) == {"num_layers": 1, "num_decoder_layers": 2}
    with pytest.raises(PlanError, match="vision"):
        names = ["model.layers.0.x.weight", "vision_tower.layers.1.x.weight"]
        config_of({}, names, {"vision_tower.layers": [({}, 1)]})
