"""Projectors: what is refused and why, what is told, and what of other folders becomes the same file."""

import json
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from requant.errors import Error
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from tests.command import run
from tests.gguf_digest import summary
from tests.test_projectors import quick_first
from tests.tiny_folder import write_tiny_folder
from tests.tiny_projectors import MODELS, make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function from the name of a tiny model to the folder it was saved in."""
    found = {}

    def folder(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp("projector") / name
            make(name, found[name])
        return found[name]

    return folder


@pytest.fixture
def gemma3(made, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(made("gemma3"), tmp_path / "gemma3"))


def convert(folder, *options):
    return run("convert", folder, folder.parent / "mmproj.gguf", "--mmproj", *options)


def edit(folder, file="config.json", **changes):
    """Change a JSON file; `a__b` is a path, None takes away."""
    path = folder / file
    config = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
        if value is None:
            del place[last]
    path.write_text(json.dumps(config))


def test_a_text_model_has_none(tmp_path):
    folder = write_tiny_folder(tmp_path / "tiny")
    done = convert(folder)
    assert done.exit_code == 3 and "neither sees nor hears" in done.stderr and "--mmproj" in done.stderr
    edit(folder, some_config={"a": 1})
    assert "neither sees nor hears" in convert(folder).stderr


def test_a_class_that_nobody_knows(gemma3):
    edit(gemma3, architectures=["SeesEverythingForConditionalGeneration"])
    done = convert(gemma3)
    assert done.exit_code == 3 and "SeesEverything" in done.stderr and "Gemma3ForConditionalGeneration" in done.stderr


def test_a_vision_model_of_another_kind(made, tmp_path):
    folder = Path(shutil.copytree(made("pixtral"), tmp_path / "llava"))
    edit(folder, vision_config__model_type="clip_vision_model")
    done = convert(folder)
    assert done.exit_code == 3 and "clip_vision_model" in done.stderr and "pixtral" in done.stderr


def test_a_gguf_is_no_source_and_a_folder_no_destination(gemma3, tmp_path):
    assert convert(gemma3, "--to", "F16").exit_code == 0
    mmproj = tmp_path / "mmproj.gguf"
    done = run("convert", mmproj, tmp_path / "other.gguf", "--mmproj")
    assert done.exit_code == 4 and "Hugging Face folder" in done.stderr
    assert run("convert", gemma3, tmp_path / "out", "--mmproj").exit_code == 4
    done = run("convert", mmproj, tmp_path / "out")
    assert done.exit_code == 3 and "projector" in done.stderr and "text model" in done.stderr


def test_without_the_preprocessor(gemma3):
    (gemma3 / "preprocessor_config.json").unlink()
    done = convert(gemma3)
    assert done.exit_code == 4 and "preprocessor_config.json" in done.stderr and "image_mean" in done.stderr
    shutil.copy(gemma3 / "config.json", gemma3 / "preprocessor_config.json")
    assert "preprocessor_config.json: image_mean" in convert(gemma3).stderr
    (gemma3 / "preprocessor_config.json").write_text("[1, 2")
    assert convert(gemma3).exit_code == 2


def test_the_processor_of_transformers_5(gemma3):
    (gemma3 / "preprocessor_config.json").unlink()
    pixels = dict(MODELS["gemma3"].preprocessor)
    (gemma3 / "processor_config.json").write_text(json.dumps({"image_processor": pixels}))
    assert convert(gemma3).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_config__hidden_size": 64}, "the configuration says"),
        ({"vision_config__num_hidden_layers": 2}, "layers.2"),
        ({"vision_config__num_hidden_layers": 4}, "layers.3"),
        ({"vision_config__num_hidden_layers": 10**9}, "layers"),
        ({"vision_config__image_size": 56}, "position_embedding"),
        ({"vision_config__patch_size": 0}, "patch_size"),
        ({"vision_config__num_attention_heads": 3}, "head"),
        ({"text_config__hidden_size": 48}, "the configuration says"),
        ({"vision_config__intermediate_size": "wide"}, "vision_config.intermediate_size is 'wide'"),
        ({"vision_config": 5}, ""),
    ],
)
def test_contradictions(gemma3, changes, said):
    edit(gemma3, **changes)
    done = convert(gemma3)
    assert done.exit_code in (3, 4) and said in done.stderr and "Traceback" not in done.stderr


def test_tensors_that_nobody_knows(gemma3):
    tensors = load_file(gemma3 / "model.safetensors")
    save_file({**tensors, "vision_tower.vision_model.gate.weight": torch.ones(3)}, gemma3 / "model.safetensors")
    done = convert(gemma3)
    assert done.exit_code == 4 and "vision_tower.vision_model.gate.weight" in done.stderr


@pytest.mark.parametrize("command", ["convert", "requantize"])
def test_a_projector_of_another_type(command, made, tmp_path):
    """From its GGUF as from its folder: what llama.cpp computes in one type only stays in it."""
    for recipe in ("F32", "Q8_0"):
        assert (
            run("convert", made("qwen2audio"), tmp_path / f"{recipe}.gguf", "--mmproj", "--to", recipe).exit_code == 0
        )
    out = tmp_path / "again.gguf"
    order = ("--to", "Q8_0") if command == "convert" else ("Q8_0",)
    words = [tmp_path / "F32.gguf", out, *order]
    done = run(command, *words)
    assert done.exit_code == 0, done.stderr
    assert summary(out)["tensors"] == summary(tmp_path / "Q8_0.gguf")["tensors"]
    assert run(command, tmp_path / "F32.gguf", tmp_path / "q4.gguf", *order[:-1], "Q4_K_M").exit_code == 4


def test_a_recipe_that_is_none_for_projectors(gemma3):
    done = convert(gemma3, "--to", "Q4_K_M")
    assert done.exit_code == 4 and "Q8_0" in done.stderr


def test_a_type_that_llama_cpp_does_not_take_is_told(gemma3):
    done = convert(gemma3, "--to", "F16", "--tensor-type", "patch_embd=F16", "--json", "--dry-run")
    (loss,) = json.loads(done.stdout)["losses"]
    assert loss["subject"] == "v.patch_embd.weight" and loss["kind"] == "type substituted"


def test_without_a_type_exact_stays_exact(gemma3, tmp_path):
    """But for what llama.cpp computes in F16 alone, and for a sum."""
    plan = json.loads(convert(gemma3, "--dry-run", "--json").stdout)
    rounded = [step["to"] for step in plan["steps"] if step["fidelity"] == "round"]
    assert set(rounded) <= {"mm.input_projection.weight", "mm.soft_emb_norm.weight"}


@pytest.mark.parametrize("name", quick_first([name for name in MODELS if MODELS[name].hub]))
def test_names_as_transformers_5_saves_them(name, made, tmp_path):
    """The same GGUF as of a folder of the Hub."""
    found = {}
    for kind, folder in (("hub", made(name)), ("saved", tmp_path / name)):
        if kind == "saved":
            make(name, folder, hub=False)
        out = tmp_path / f"{kind}.gguf"
        assert run("convert", folder, out, "--mmproj", "--to", "F16").exit_code == 0
        found[kind] = summary(out)
    assert found["saved"]["tensors"] == found["hub"]["tensors"]


@pytest.mark.slow
def test_a_tower_that_is_quantized(gemma3, tmp_path):
    """bitsandbytes takes every linear layer; the projector has the numbers that it stands for."""
    assert run("convert", gemma3, tmp_path / "nf4", "--to", "NF4").exit_code == 0
    for folder in (gemma3, tmp_path / "nf4"):
        assert run("convert", folder, f"{folder}.gguf", "--mmproj", "--to", "F32").exit_code == 0
    plain, rounded = (
        {tensor.name: tensor.data for tensor in GGUFReader(f"{folder}.gguf").tensors}
        for folder in (gemma3, tmp_path / "nf4")
    )
    assert plain.keys() == rounded.keys()
    far = [name for name, array in plain.items() if not np.array_equal(array, rounded[name])]
    assert far and all(name.startswith("v.blk.") for name in far)
    assert all(np.corrcoef(plain[name].ravel(), rounded[name].ravel())[0, 1] > 0.98 for name in far)


def test_a_tower_whose_text_model_is_quantized(gemma3, tmp_path):
    """compressed-tensors leaves the tower as it is."""
    before = convert(gemma3, "--to", "F16")
    assert before.exit_code == 0
    plain = summary(gemma3.parent / "mmproj.gguf")["tensors"]
    text = tmp_path / "w4a16"
    tensors = load_file(gemma3 / "model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.down_proj.weight"))
    weight = tensors.pop(name)
    rows, columns = weight.shape
    module = name.removesuffix(".weight")
    tensors |= {
        f"{module}.weight_packed": torch.zeros(rows, columns // 8, dtype=torch.int32),
        f"{module}.weight_scale": torch.ones(rows, 1, dtype=torch.bfloat16),
        f"{module}.weight_shape": torch.tensor([rows, columns]),
    }
    shutil.copytree(gemma3, text)
    save_file(tensors, text / "model.safetensors")
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}
    edit(
        text,
        quantization_config={
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["re:vision_tower.*", "re:multi_modal_projector.*", "lm_head"],
        },
    )
    out = tmp_path / "w4a16.gguf"
    done = run("convert", text, out, "--mmproj", "--to", "F16")
    assert done.exit_code == 0, done.stderr
    assert summary(out)["tensors"] == plain


def test_inspect_tells_what_it_is_made_for(gemma3, tmp_path):
    assert convert(gemma3, "--to", "F16").exit_code == 0
    told = run("inspect", tmp_path / "mmproj.gguf").stdout
    assert "gemma3: pictures of 112 x 112, patches of 14 x 14, 3 layers, width 32, 2 heads" in told
    assert "tied" not in told and "memory to run" not in told
    document = json.loads(run("inspect", tmp_path / "mmproj.gguf", "--json").stdout)
    assert document["projector"]["text_width"] == 32 and document["projector"]["towers"][0]["kind"] == "gemma3"
    assert set(document["layers"]) == {"0", "1", "2"} and "v.blk.*.attn_q" in document["roles"]


def test_the_text_model_says_what_makes_the_projector(made, tmp_path):
    done = run("convert", made("qwen3vl"), tmp_path / "text.gguf", "--no-vocab", "--dry-run")
    assert "the same command with --mmproj makes it" in done.stdout


WRONG = [None, True, -1, 0, 3, 10**12, 1e300, float("nan"), "text", [], [1], {}, {"a": 1}]


@pytest.mark.parametrize("name", quick_first(MODELS))
def test_settings_that_are_wrong(name, made):
    """Every value of config.json and of the preprocessor, changed: an error of ours, or a plan."""
    source, asked = Safetensors().read(made(name)), Request("F16", projector=True)
    config = json.loads((made(name) / "config.json").read_text())
    chance = random.Random(name)
    places = [(config, key) for key in config]
    places += [(inner, key) for inner in config.values() if isinstance(inner, dict) for key in inner]
    for place, key in places:
        kept = place[key]
        for value in chance.sample(WRONG, 3):
            place[key] = value
            with suppress(Error):
                plan_conversion(replace(source, config=config), Gguf(), Path("out.gguf"), asked)
        del place[key]
        with suppress(Error):
            plan_conversion(replace(source, config=config), Gguf(), Path("out.gguf"), asked)
        place[key] = kept
