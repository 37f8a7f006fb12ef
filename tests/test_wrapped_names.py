"""Names of tensors that trainers and other libraries leave behind: taken off and told, or said in the refusal."""

import json

import pytest
from safetensors.torch import load_file, save_file

from requant.errors import PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from requant.wrapped import wrappers_of
from tests.test_heads import saved


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    saved(folder, "LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=False)
    return folder


def renamed(whole, folder, rename):
    """The folder with other names."""
    folder.mkdir()
    weights = load_file(whole / "model.safetensors")
    save_file({rename(name): value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((whole / "config.json").read_bytes())
    return folder


def to_gguf(folder, path):
    plan = plan_conversion(Safetensors().read(folder), Gguf(), path, Request("F32", vocabulary=False))
    execute(plan)
    return plan


WRAPPED = {
    "DataParallel": (lambda name: f"module.{name}", {"module."}),
    "compile": (lambda name: f"_orig_mod.{name}", {"_orig_mod."}),
    "PEFT, merged": (lambda name: f"base_model.model.{name}", {"base_model.model."}),
    "DataParallel of compile": (lambda name: f"module._orig_mod.{name}", {"module.", "_orig_mod."}),
    "compiled layers": (lambda name: name.replace("mlp.", "mlp._orig_mod."), {"_orig_mod."}),
    "FSDP": (lambda name: "_fsdp_wrapped_module." + name, {"_fsdp_wrapped_module."}),
    "checkpointed": (
        lambda name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
        {"_checkpoint_wrapped_module."},
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_taken_off_and_told(kind, whole, tmp_path):
    rename, told = WRAPPED[kind]
    folder = renamed(whole, tmp_path / "hf", rename)
    to_gguf(whole, tmp_path / "plain.gguf")
    plan = to_gguf(folder, tmp_path / "wrapped.gguf")
    assert {loss.subject for loss in plan.losses} == told
    ours, theirs = (Gguf().read(tmp_path / f"{name}.gguf") for name in ("wrapped", "plain"))
    assert [(t.name, t.shape) for t in ours.tensors] == [(t.name, t.shape) for t in theirs.tensors]
    # and to a folder
    plan = plan_conversion(Safetensors().read(folder), Safetensors(), tmp_path / "out", Request("BF16"))
    assert {loss.subject for loss in plan.losses} == told
    execute(plan)
    assert load_file(tmp_path / "out/model.safetensors").keys() == load_file(whole / "model.safetensors").keys()
    # inspect knows the head by its name
    assert not report(Safetensors().read(folder), "safetensors").tied_output


def test_what_looks_like_a_wrapper_and_is_none():
    assert wrappers_of([]) == {}
    assert wrappers_of(["module.a", "b"]) == {}
    assert wrappers_of(["base_model.model.q.base_layer.weight", "base_model.model.q.lora_A.weight"]) == {}


def test_two_tensors_of_one_name(whole, tmp_path):
    folder = renamed(whole, tmp_path / "hf", lambda name: name)
    weights = load_file(folder / "model.safetensors")
    weights["_orig_mod.lm_head.weight"] = weights["lm_head.weight"] + 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlanError, match=r"both 'lm_head\.weight'"):
        to_gguf(folder, tmp_path / "m.gguf")


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
@pytest.mark.parametrize("same", [True, False])
def test_a_head_below_the_prefix_of_its_model(head, same, tmp_path):
    sizes = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
    saved(tmp_path / "hf", "Gemma3ForCausalLM", "Gemma3TextConfig", **sizes)
    path = tmp_path / "hf/model.safetensors"
    weights = {f"language_model.{name}": value for name, value in load_file(path).items()}
    weights[head] = weights["language_model.model.embed_tokens.weight"].clone() + (0 if same else 1)
    save_file(weights, path, {"format": "mlx"})
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(
        json.dumps({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": config})
    )
    if same:
        to_gguf(tmp_path / "hf", tmp_path / "m.gguf")
        assert "output.weight" not in {tensor.name for tensor in Gguf().read(tmp_path / "m.gguf").tensors}
    else:
        with pytest.raises(PlanError, match="tied"):
            to_gguf(tmp_path / "hf", tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"llm.{name}", "'llm.model.embed_tokens.weight', below a prefix"),
        (lambda name: f"transformer.{name.removeprefix('model.')}", "no tensor is called model.embed_tokens"),
        (
            lambda name: name.replace("model.embed_tokens", "tok_embeddings"),
            "'tok_embeddings.weight', one of Mistral's",
        ),
        (lambda name: name.replace("model.embed_tokens", "word_table"), "no tensor is called model.embed_tokens"),
        (lambda name: name.replace("self_attn.q_proj", "attention.wq"), "self_attn.q_proj.weight"),
    ],
    ids=["below a prefix", "another trunk", "another library's embedding", "another embedding", "another layer"],
)
def test_a_refusal_says_what_the_names_are(rename, said, whole, tmp_path):
    folder = renamed(whole, tmp_path / "hf", rename)
    with pytest.raises(PlanError) as caught:
        to_gguf(folder, tmp_path / "m.gguf")
    assert said in str(caught.value)
    assert "shard" not in str(caught.value.hint)  # nothing is missing that another file could hold


def test_a_tensor_that_is_missing_from_a_whole_file(whole, tmp_path):
    """Nothing tells of a shard here; where something does, it is named: tests/test_what_folders_hold.py."""
    folder = renamed(whole, tmp_path / "hf", lambda name: name)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlanError, match=r"layers\.1\.mlp\.up_proj") as caught:
        to_gguf(folder, tmp_path / "m.gguf")
    assert caught.value.hint == "does the configuration describe another model?"
