"""Adapters on models: what PEFT's own `merge_and_unload` makes of the same (`fixtures/adapters/make.py`)."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from requant import formats
from requant.cli.main import cli
from requant.parts import read_values
from requant.verify.llama_cpp import LlamaCpp
from tests import tiny_models
from tests.tiny_folder import write_tiny_folder

FIXTURES = Path(__file__).parent.parent / "fixtures" / "adapters"
MADE = TemporaryDirectory()  # goes when the process ends
ADAPTERS = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())


@cache
def base(name):
    """The tiny model that an adapter was made for."""
    folder = Path(MADE.name) / name
    tiny_models.make(name, folder, dtype=torch.bfloat16)
    return folder


def requant(*arguments, code=0):
    """Run the command; its output."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def base_of(adapter):
    """The name of its model."""
    return json.loads((FIXTURES / adapter / "adapter_config.json").read_text())["base_model_name_or_path"]


def ordered(values):
    """BF16 numbers as integers that follow each other as they do."""
    bits = values.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32).numpy()
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def steps(*values):
    """The distance of BF16 numbers around the largest of these."""
    largest = np.max([np.abs(one.float().numpy()) for one in values], axis=0)
    return np.exp2(np.floor(np.log2(np.maximum(largest, 1e-30))) - 7)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_weights_are_those_of_peft(name, tmp_path):
    model = base(base_of(name))
    requant("merge", f"{model}+{FIXTURES / name}", "-o", tmp_path / "out", "-q")
    before, found = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    changed = load_file(FIXTURES / f"{name}.merged.safetensors")
    assert found.keys() == before.keys()
    for key, value in found.items():
        assert value.dtype == torch.bfloat16
        wanted = changed.get(key, before[key])
        if "embed" in key or ".experts." in key:  # PEFT rounds the product to BF16 before it adds it
            of = steps(before[key], wanted, wanted.float() - before[key].float())
            assert (np.abs(value.float().numpy() - wanted.float().numpy()) <= of).all(), key
        else:
            assert np.abs(ordered(value) - ordered(wanted)).max() <= 1, key
        assert key in changed or torch.equal(value, before[key])
        assert key not in changed or not torch.equal(value, before[key])


#: Adapters that a GGUF can be, and those that llama.cpp's kind of adapter cannot say.
PLAIN = [name for name in ADAPTERS if name.endswith(("-lora", "-rslora")) or name == "llama-embedding"]
OTHERS = [name for name in ADAPTERS if name not in PLAIN]


TEXT = np.random.default_rng(3).integers(1, tiny_models.VOCABULARY, 24).tolist()


def logits(path, adapter=None):
    """Of some tokens, in llama.cpp."""
    with LlamaCpp(path, n_ctx=24, precise=True) as runtime:
        if adapter is not None:
            runtime.adapt(adapter)
        return runtime.logits(TEXT)


def in_gguf(source, path):
    """A GGUF in F32 without a vocabulary."""
    requant("convert", source, path, "--to", "F32", "--no-vocab", "-q")
    return path


def far(ours, theirs):
    """The largest difference, as a part of their range."""
    return np.abs(ours - theirs).max() / (theirs.max() - theirs.min())


#: One of each model is enough for every day.
DAILY = ("llama-dora", "qwen3moe-lora", "gemma3-tokens")


@pytest.mark.parametrize(
    "name", [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in ADAPTERS]
)
def test_logits_of_the_merge_are_those_of_peft(name, tmp_path):
    """What llama.cpp computes with the merged model is what transformers computes with the weights that PEFT merged."""
    model = base(base_of(name))
    requant("merge", f"{model}+{FIXTURES / name}", "-o", tmp_path / "merged", "-q")
    theirs = shutil.copytree(model, tmp_path / "theirs")
    weights = load_file(model / "model.safetensors") | load_file(FIXTURES / f"{name}.merged.safetensors")
    save_file(weights, theirs / "model.safetensors", metadata={"format": "pt"})
    of_peft = AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        wanted = of_peft(torch.tensor([TEXT])).logits[0].numpy()
    rounded = any(
        "embed" in key or ".experts." in key for key in load_file(FIXTURES / name / "adapter_model.safetensors")
    )
    tolerance = 6e-3 if rounded else 2e-3  # PEFT rounds those products to BF16 before it adds them
    assert far(logits(in_gguf(tmp_path / "merged", tmp_path / "merged.gguf")), wanted) < tolerance
    assert far(logits(in_gguf(model, tmp_path / "plain.gguf")), wanted) > 2 * tolerance  # it does something


@pytest.mark.parametrize("name", PLAIN)
def test_logits_beside_the_model_are_those_of_the_merge(name, tmp_path):
    model = base(base_of(name))
    requant("convert", FIXTURES / name, tmp_path / "adapter.gguf", "--base", model, "-q")
    requant("merge", f"{model}+{FIXTURES / name}", "-o", tmp_path / "merged", "--to", "F32", "-q")
    plain = in_gguf(model, tmp_path / "plain.gguf")
    wanted = logits(in_gguf(tmp_path / "merged", tmp_path / "merged.gguf"))
    assert far(logits(plain, tmp_path / "adapter.gguf"), wanted) < 2e-3
    assert far(logits(plain), wanted) > 0.02  # it does something
    # and read back, on the folder as on the GGUF
    for other in (model, plain):
        requant(
            "merge", f"{other}+{tmp_path / 'adapter.gguf'}", "-o", tmp_path / "again", "--to", "F32", "-q", "--force"
        )
        found, same = (load_file(tmp_path / one / "model.safetensors") for one in ("again", "merged"))
        assert found.keys() == same.keys()
        for key, value in same.items():
            assert np.abs(found[key].numpy() - value.numpy()).max() <= 1e-5 * np.abs(value.numpy()).max(), key


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_gguf_adapter_cannot_say(name, tmp_path):
    told = requant("convert", FIXTURES / name, tmp_path / "x.gguf", "--base", base(base_of(name)), code=3)
    assert "has no place in a GGUF adapter" in told and "requant merge BASE+ADAPTER" in told
    assert not (tmp_path / "x.gguf").exists()


def changed(tmp_path, name, *, config=None, tensors=None):
    """A copy of an adapter, with keys of its configuration or tensors as said (None takes one away)."""
    folder = tmp_path / "adapter"
    shutil.copytree(FIXTURES / name, folder)
    said = json.loads((folder / "adapter_config.json").read_text()) | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(said))
    held = load_file(folder / "adapter_model.safetensors") | (tensors or {})
    save_file({key: value for key, value in held.items() if value is not None}, folder / "adapter_model.safetensors")
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj."

#: (what is changed, what the error says)
BAD = {
    "another type": ({"config": {"peft_type": "LOHA"}}, ["peft_type", "LOHA"]),
    "a new key": ({"config": {"use_new_math": False}}, ["use_new_math", "no such key"]),
    "a key that changes": ({"config": {"layer_replication": [[0, 1]]}}, ["layer_replication"]),
    "weights of its own": ({"config": {"init_lora_weights": "pissa"}}, ["init_lora_weights", "pissa"]),
    "aLoRA": ({"config": {"alora_invocation_tokens": [1, 2]}}, ["alora_invocation_tokens"]),
    "no rank": ({"config": {"r": "four"}}, ["adapter_config.json", "r must be a number"]),
    "another rank": ({"config": {"rank_pattern": {}}}, ["q_proj.lora_A", "rank 2", "says 4"]),
    "a pattern that is none": ({"config": {"rank_pattern": {"(": 2}}}, ["adapter_config.json", "pattern"]),
    "no B": ({"tensors": {f"{Q}lora_B.weight": None}}, ["no lora_B", "q_proj"]),
    "no A": ({"tensors": {f"{Q}lora_A.weight": None}}, ["no lora_A", "q_proj"]),
    "another shape": ({"tensors": {f"{Q}lora_A.weight": torch.ones(2, 60)}}, ["q_proj.lora_A", "[64, 60]", "[64, 64]"]),
    "a convolution": ({"tensors": {f"{Q}lora_A.weight": torch.ones(2, 64, 1, 1)}}, ["q_proj.lora_A", "matrices"]),
    "lengths that nobody promised": (
        {"tensors": {f"{Q}lora_magnitude_vector": torch.ones(64)}},
        ["lora_magnitude_vector", "use_dora"],
    ),
    "lengths that are missing": ({"config": {"use_dora": True}}, ["no 'model.layers.", "use_dora"]),
    "another kind of tensor": ({"tensors": {f"{Q}hada_w1_a": torch.ones(4, 4)}}, ["hada_w1_a"]),
    "a module that is not there": (
        {"tensors": {"base_model.model.model.layers.0.self_attn.z_proj.weight": torch.ones(4, 4)}},
        ["z_proj", "another model's adapter"],
    ),
    "tokens without rows": ({"config": {"trainable_token_indices": [1]}}, ["trainable_token_indices"]),
    "a bias that the model lacks": (
        {"config": {"lora_bias": True}, "tensors": {f"{Q}lora_B.bias": torch.ones(64)}},
        ["lora_B.bias", "q_proj.bias"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters_end_while_planning(case, tmp_path):
    changes, wanted = BAD[case]
    folder = changed(tmp_path, "llama-lora", **changes)
    result = CliRunner().invoke(cli, ["merge", f"{base('llama')}+{folder}", "-o", str(tmp_path / "out")])
    assert result.exit_code in (2, 3, 4), result.output
    for words in wanted:
        assert words in " ".join(result.output.split()), result.output
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_model(tmp_path):
    told = requant("merge", f"{base('llama')}+{FIXTURES / 'gemma3-lora'}", "-o", tmp_path / "out", code=4)
    assert "is it another model's adapter?; it was made for gemma3" in told
    told = requant("merge", f"{base('llama')}+{base('llama')}", "-o", tmp_path / "out", code=4)
    assert "is no adapter" in told


def test_names_as_trainers_leave_them(tmp_path):
    """The adapter's own name in every tensor's, and a file of torch's."""
    folder = tmp_path / "adapter"
    shutil.copytree(FIXTURES / "llama-dora", folder)
    held = load_file(folder / "adapter_model.safetensors")
    renamed = {
        key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
        + (".default" * key.endswith("vector")): value
        for key, value in held.items()
    }
    (folder / "adapter_model.safetensors").unlink()
    torch.save(renamed, folder / "adapter_model.bin")
    for name, source in (("a", folder), ("b", FIXTURES / "llama-dora")):
        requant("merge", f"{base('llama')}+{source}", "-o", tmp_path / name, "-q")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == other


def in_other_columns(held, experts, way):
    """Factors of stacks of experts as unsloth had them before 2026.9.6, `grouped`, and PEFT before 0.19, `swapped`."""
    found = dict(held)
    for key in [key for key in held if ".experts." in key and "lora_B" in key]:
        down = key.replace("lora_B", "lora_A")
        rank = held[key].shape[1] // experts
        by_expert = held[key].reshape(-1, rank, experts).transpose(1, 2).reshape(len(held[key]), -1)
        if way == "grouped":
            found[key] = by_expert
        else:
            found[down] = by_expert.T
            rows = held[down].reshape(experts, rank, -1)
            found[key] = rows.permute(2, 1, 0).reshape(held[down].shape[1], -1)
    return {key: value.contiguous() for key, value in found.items()}


MARK = {"lora_A_layout": "grouped_by_expert", "parameters": {}}
UNSLOTH = {"auto_mapping": {"base_model_class": "X", "parent_library": "y", "unsloth_fixed": True}}
EACH = {name: {"lora_B_layout": "grouped_by_expert", "num_experts": 4} for name in ("gate_up_proj", "down_proj")}

#: (what adapter_config.json has besides, how the factors lie, whether something is assumed)
WAYS = {
    "unsloth, as PEFT": ({**UNSLOTH, "lora_B_layout": "rank_major", "unsloth_fused_expert_lora": MARK}, "", False),
    "unsloth, by expert": ({**UNSLOTH, "lora_B_layout": "grouped_by_expert"}, "grouped", False),
    "unsloth, told of each": ({**UNSLOTH, "unsloth_fused_expert_lora": {"parameters": EACH}}, "grouped", False),
    "unsloth, told elsewhere": ({"auto_mapping": {"lora_B_layout": "grouped_by_expert"}}, "grouped", False),
    "unsloth before it told": (UNSLOTH, "grouped", True),
    "PEFT 0.18": ({"peft_version": "0.18.1"}, "swapped", False),
}


@pytest.mark.parametrize("way", WAYS)
def test_experts_as_others_write_them(way, tmp_path):
    said, lie, assumed = WAYS[way]
    held = load_file(FIXTURES / "qwen3moe-lora" / "adapter_model.safetensors")
    folder = changed(tmp_path, "qwen3moe-lora", config=said, tensors=in_other_columns(held, 4, lie) if lie else {})
    told = requant("merge", f"{base('qwen3moe')}+{folder}", "-o", tmp_path / "one")
    assert ("unsloth does not say" in told) is assumed
    requant("merge", f"{base('qwen3moe')}+{FIXTURES / 'qwen3moe-lora'}", "-o", tmp_path / "other", "-q")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    for key, value in other.items():
        assert torch.equal(one[key], value), key
    requant("convert", folder, tmp_path / "x.gguf", "--base", base("qwen3moe"), "-q")
    requant("convert", FIXTURES / "qwen3moe-lora", tmp_path / "y.gguf", "--base", base("qwen3moe"), "-q")
    x, y = ({t.name: read_values(t) for t in formats.open(tmp_path / n).tensors} for n in ("x.gguf", "y.gguf"))
    for key in (key.removesuffix(".lora_a") for key in y if key.endswith(".lora_a")):
        a, b = ((z[f"{key}.lora_b"], z[f"{key}.lora_a"]) for z in (x, y))
        assert [part.shape for part in a] == [part.shape for part in b]
        assert all(np.array_equal(*parts) for parts in zip(a, b, strict=True)), key


def test_an_adapter_of_unsloth(tmp_path):
    """What it writes besides PEFT's keys, and a pattern of modules instead of a list."""
    said = {
        **UNSLOTH,
        "base_model_name_or_path": "unsloth/Llama-3.2-1B-Instruct-bnb-4bit",
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)",
    }
    folder = changed(tmp_path, "llama-lora", config=said)
    told = requant("merge", f"{base('llama')}+{folder}", "-o", tmp_path / "one")
    assert "unsloth does not say" not in told
    requant("merge", f"{base('llama')}+{FIXTURES / 'llama-lora'}", "-o", tmp_path / "other", "-q")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_columns_in_an_order_that_is_not_known(tmp_path):
    mixed = {"parameters": {**EACH, "down_proj": {"lora_B_layout": "mixed", "num_experts": 4}}}
    for config, words in (
        ({"lora_B_layout": "by_moon"}, ["lora_B_layout is", "by_moon", "rank_major"]),
        ({"unsloth_fused_expert_lora": mixed}, ["lora_B_layout of down_proj", "mixed"]),
    ):
        folder = changed(tmp_path / words[-1], "qwen3moe-lora", config=config)
        told = " ".join(requant("merge", f"{base('qwen3moe')}+{folder}", "-o", tmp_path / "out", code=3).split())
        assert all(word in told for word in words), told


def test_in_a_recipe_beside_others(tmp_path):
    """`model+lora` is a model like any other: a weighted average with its base is half of the adapter."""
    lora = FIXTURES / "llama-rslora"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"merge_method: linear\ndtype: float32\nmodels:\n"
        f"  - {{model: {base('llama')}, parameters: {{weight: 0.5}}}}\n"
        f"  - {{model: {base('llama')}+{lora}, parameters: {{weight: 0.5}}}}\n"
    )
    requant("merge", recipe, "-o", tmp_path / "half", "-q")
    requant("merge", f"{base('llama')}+{lora}", "-o", tmp_path / "whole", "--to", "F32", "-q")
    before, half, whole = (
        load_file(folder / "model.safetensors") for folder in (base("llama"), tmp_path / "half", tmp_path / "whole")
    )
    for key, value in half.items():
        assert torch.allclose(value, (before[key].float() + whole[key]) / 2, atol=1e-6), key


def test_tied_embeddings_of_which_one_is_changed_are_two(tmp_path):
    """The head keeps the model's embedding, as while the adapter was trained."""
    folder = changed(tmp_path, "llama-embedding")
    held = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v for k, v in held.items() if "lm_head" not in k and "base_layer" not in k},
        folder / "adapter_model.safetensors",
    )
    told = requant("merge", f"{base('llama-tied')}+{folder}", "-o", tmp_path / "out")
    assert "from now on each has its own" in told
    before, after = (load_file(one / "model.safetensors") for one in (base("llama-tied"), tmp_path / "out"))
    assert torch.equal(after["lm_head.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_straight_to_a_quantized_gguf(tmp_path):
    """The same as by way of the merged folder in F32, from a folder and from a GGUF."""
    model = write_tiny_folder(tmp_path / "model")
    rows, columns = load_file(model / "model.safetensors")[Q.removeprefix("base_model.model.") + "weight"].shape
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 3}')
    factors = {f"{Q}lora_A.weight": torch.randn(3, columns), f"{Q}lora_B.weight": torch.randn(rows, 3) / 10}
    save_file(factors, lora / "adapter_model.safetensors")
    requant("merge", f"{model}+{lora}", "-o", tmp_path / "merged", "--to", "F32", "-q")
    requant("convert", tmp_path / "merged", tmp_path / "two.gguf", "--to", "Q8_0", "-q")
    requant("convert", model, tmp_path / "plain.gguf", "-q")
    for source in (model, tmp_path / "plain.gguf"):
        requant("merge", f"{source}+{lora}", "-o", tmp_path / "one.gguf", "--to", "Q8_0", "-q", "--force")
        one, two = ({t.name: t for t in formats.open(tmp_path / f"{n}.gguf").tensors} for n in ("one", "two"))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert tensor.encoding == two[name].encoding
            assert np.array_equal(read_values(tensor), read_values(two[name])), name


def test_extracted_adapter_is_the_best_of_its_rank(tmp_path):
    """Of a difference of that rank all of it; of any other nearly as much as its largest singular values are."""
    model = base("llama")
    requant("merge", f"{model}+{FIXTURES / 'llama-rslora'}", "-o", tmp_path / "tuned", "--to", "F32", "-q")
    for rank in (4, 2):
        arguments = ("--extract-lora", model, tmp_path / "tuned", "--rank", rank)
        requant("merge", *arguments, "-o", tmp_path / f"lora{rank}", "-q")
        requant("merge", f"{model}+{tmp_path / f'lora{rank}'}", "-o", tmp_path / f"again{rank}", "--to", "F32", "-q")
        before, wanted, found = (
            load_file(one / "model.safetensors") for one in (model, tmp_path / "tuned", tmp_path / f"again{rank}")
        )
        for key, value in wanted.items():
            change = value - before[key].float()
            if change.ndim == 2 and change.abs().max() > 0:
                left = torch.linalg.svdvals(change)[rank:].square().sum().sqrt()
                assert torch.linalg.norm(found[key] - value) <= 1.01 * left + 1e-5 * torch.linalg.norm(value), key
            else:
                assert torch.allclose(found[key], value, atol=1e-6), key
    said = json.loads((tmp_path / "lora4" / "adapter_config.json").read_text())
    assert said["r"] == said["lora_alpha"] == 4 and "q_proj" in said["target_modules"]
    told = requant("merge", "--extract-lora", model, base("gemma3"), "--rank", 4, "-o", tmp_path / "x", code=4)
    assert "second" in told


def test_inspect_says_what_an_adapter_is(tmp_path):
    told = requant("inspect", FIXTURES / "llama-lora")
    assert "LoRA, rank 2, 4, alpha 6, scale 1.5, 1.75, 3" in told
    assert "self_attn.q_proj (2)" in told and "base model       llama" in told
    assert "DoRA" in requant("inspect", FIXTURES / "gpt2-dora")
    assert "trained tokens   3" in requant("inspect", FIXTURES / "llama-tokens")
    assert "whole tensors    lm_head.weight" in requant("inspect", FIXTURES / "qwen3moe-saved")
    requant("convert", FIXTURES / "llama-rslora", tmp_path / "x.gguf", "--base", base("llama"), "-q")
    said = json.loads(requant("inspect", tmp_path / "x.gguf", "--json"))["adapter"]
    assert said["ranks"] == [4] and said["scales"] == [3.0] and said["targets"]["attn_q"] == 2
    odd = changed(tmp_path, "llama-lora", config={"use_new_math": True})
    assert "not understood" in (told := requant("inspect", odd)) and "use_new_math" in told
