"""Units cut out: logits are those of the model with the same units masked out, in transformers and in llama.cpp."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from requant.formats import open as open_model
from requant.merging.model import model_of
from requant.merging.reference import Reference
from requant.pruning.choosing import Measured, chosen_units
from requant.pruning.structure import Wanted
from requant.pruning.units import Axis
from requant.verify.llama_cpp import LlamaCpp
from tests import tiny_models
from tests.command import run
from tests.pruned_models import masked
from tests.test_architectures_run import to_gguf, tokens

CASES = {
    "llama-groups": ("llama", {"kv_heads": 1, "ffn": 64}),
    "llama-heads": ("llama", {"heads": 2}),
    "llama-width": ("llama", {"hidden": 48, "ffn": 80}),
    "llama-layers": ("llama", {"layers": (1,), "kv_heads": 1, "hidden": 40}),
    "qwen3moe-experts": ("qwen3moe", {"experts": 3, "expert_ffn": 40}),
    "qwen3moe-all": ("qwen3moe", {"experts": 2, "expert_ffn": 32, "kv_heads": 1, "hidden": 48}),
    "gemma3-groups": ("gemma3", {"kv_heads": 1, "ffn": 64}),
    "gemma3-width": ("gemma3", {"hidden": 48}),
    "gemma3-layers": ("gemma3", {"layers": (0, 1, 3, 4, 5, 6), "heads": 2}),
    "gpt2-neurons": ("gpt2", {"ffn": 200}),
    "gpt2-width": ("gpt2", {"heads": 3, "hidden": 48}),
    "bert-neurons": ("bert", {"ffn": 64}),
    "bert-width": ("bert", {"heads": 3, "hidden": 48, "ffn": 80}),
}


def words(wanted):
    found = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items() if name != "layers"]
    return [*found, *(["--keep-layers", ",".join(map(str, wanted["layers"]))] if "layers" in wanted else [])]


def model_at(folder):
    return model_of(Reference(str(folder)), open_model(folder))


def requant(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", CASES)
def test_as_if_masked(name, tmp_path):
    family, wanted = CASES[name]
    original = tiny_models.make(family, tmp_path / "whole").eval()
    kept = chosen_units(model_at(tmp_path / "whole"), Wanted(**wanted), None)
    told = requant("prune", tmp_path / "whole", tmp_path / "cut", *words(wanted))
    assert "cut: " in told
    smaller = type(original).from_pretrained(tmp_path / "cut").eval()
    reference = masked(original, kept, 32 if family in ("gemma3", "qwen3moe") else 16, wanted.get("layers"))
    text = tokens(40)
    with torch.inference_mode():
        ours, theirs = (model(torch.tensor([text])) for model in (smaller, reference))
    if family == "bert":
        columns = list(kept.get((Axis.HIDDEN, -1, -1), range(64)))
        ours, theirs = ours.last_hidden_state[0].numpy(), theirs.last_hidden_state[0].numpy()[:, columns]
    else:
        ours, theirs = ours.logits[0].numpy(), theirs.logits[0].numpy()
    spread = np.ptp(theirs)
    assert np.abs(ours - theirs).max() <= 1e-5 * spread
    path = to_gguf(tmp_path / "cut", tmp_path / "cut.gguf", encoder=family == "bert")
    with LlamaCpp(path, n_ctx=64, precise=True, embeddings=family == "bert") as runtime:
        theirs_too = runtime.embed(text) if family == "bert" else runtime.logits(text)
    assert np.abs(theirs_too - theirs).max() <= 1e-3 * spread


def test_a_gguf_is_cut_like_the_folder(tmp_path):
    """Straight from one GGUF to another, rows of queries in their other order."""
    tiny_models.make("llama", tmp_path / "whole")
    to_gguf(tmp_path / "whole", tmp_path / "whole.gguf")
    options = ("--kv-heads", "1", "--hidden", "48", "--ffn", "64", "--no-vocab", "-q")
    requant("prune", tmp_path / "whole.gguf", tmp_path / "one.gguf", *options)
    requant("prune", tmp_path / "whole", tmp_path / "two.gguf", "--to", "F32", *options)
    text = tokens(24)
    found = []
    for name in ("one.gguf", "two.gguf"):
        with LlamaCpp(tmp_path / name, n_ctx=32, precise=True) as runtime:
            found.append(runtime.logits(text))
    assert np.array_equal(*found)


def test_the_smallest_units_are_cut(tmp_path):
    """Sums of squares of what goes with a unit, from its definition."""
    tiny_models.make("llama", tmp_path / "whole")
    kept = chosen_units(model_at(tmp_path / "whole"), Wanted(kv_heads=1, ffn=50, hidden=40), None)
    state = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    layer = {name.split(".", 3)[3]: value.square() for name, value in state.items() if ".layers.1." in name}
    neurons = (
        layer["mlp.gate_proj.weight"].sum(1) + layer["mlp.up_proj.weight"].sum(1) + layer["mlp.down_proj.weight"].sum(0)
    )
    assert kept[Axis.FFN, 1, -1] == tuple(sorted(neurons.topk(50).indices.tolist()))
    queries = layer["self_attn.q_proj.weight"].sum(1) + layer["self_attn.o_proj.weight"].sum(0)
    shared = layer["self_attn.k_proj.weight"].sum(1) + layer["self_attn.v_proj.weight"].sum(1)
    groups = queries.reshape(2, -1).sum(1) + shared.reshape(2, -1).sum(1)
    best = int(groups.argmax())
    assert kept[Axis.KV_HEADS, 1, -1] == (best,)
    assert kept[Axis.HEADS, 1, -1] == (2 * best, 2 * best + 1)
    wide = sum(
        value.square().sum(1 if name.split(".")[-2] in ("o_proj", "down_proj") else 0)
        for name, value in state.items()
        if value.ndim == 2
    )
    assert kept[Axis.HIDDEN, -1, -1] == tuple(sorted(wide.topk(40).indices.tolist()))


def test_units_that_are_used_least_are_cut(tmp_path, monkeypatch):
    """Activations by hooks in transformers, beside statistics of the same tokens."""
    from tests.test_prune import statistics

    model = tiny_models.make("qwen3moe", tmp_path / "whole").eval()
    windows = statistics(tmp_path / "whole", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
    given = {}

    def note(name):
        def hook(module, inputs):
            given[name] = given.get(name, 0) + inputs[0].detach().reshape(-1, inputs[0].shape[-1]).square().sum(0)

        return hook

    for name, module in model.named_modules():
        if name.endswith(("self_attn.q_proj", "self_attn.o_proj", "mlp")):
            module.register_forward_pre_hook(note(name))
    with torch.inference_mode():
        for window in windows:
            model(torch.tensor([window]))
    options = ("--kv-heads", "1", "--hidden", "40", "--experts", "3", "--expert-ffn", "30")
    requant("prune", tmp_path / "whole", tmp_path / "cut", *options, "--stats", tmp_path / "stats.gguf", "-q")
    groups = given["model.layers.1.self_attn.o_proj"].reshape(2, -1).sum(1)
    wide = sum(value for name, value in given.items() if not name.endswith("o_proj"))
    from safetensors.torch import load_file

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    columns = wide.topk(40).indices.sort().values
    q = before["model.layers.1.self_attn.q_proj.weight"].reshape(2, -1, 64)[int(groups.argmax())][:, columns]
    assert torch.equal(after["model.layers.1.self_attn.q_proj.weight"], q)
    measured = read_entries(tmp_path / "stats.gguf", "blk.1.ffn_down_exps.weight")
    left = np.sort(np.argsort(-measured.sum(1), kind="stable")[:3])
    router = before["model.layers.1.mlp.gate.weight"][left][:, columns]
    assert torch.equal(after["model.layers.1.mlp.gate.weight"], router)
    neurons = torch.from_numpy(np.sort(np.argsort(-measured[left[1]], kind="stable")[:30]))
    down = before[f"model.layers.1.mlp.experts.{left[1]}.down_proj.weight"][columns][:, neurons]
    assert torch.equal(after["model.layers.1.mlp.experts.1.down_proj.weight"], down)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    sizes = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_local_experts", "moe_intermediate_size")
    assert [config[key] for key in sizes] == [40, 2, 1, 3, 30]


def read_entries(path, name):
    from requant.formats.imatrix import read_imatrix

    return read_imatrix(path).entries[name].sums


def test_first_cut_then_thinned_out(tmp_path, monkeypatch):
    """Wanda in the smaller model is with the norms of the columns that are left."""
    from safetensors.torch import load_file

    from tests.test_prune import statistics

    tiny_models.make("llama", tmp_path / "whole")
    statistics(tmp_path / "whole", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
    cuts = ("--hidden", "48", "--ffn", "64", "--keep-layers", "1", "--stats", tmp_path / "stats.gguf", "-q")
    requant("prune", tmp_path / "whole", tmp_path / "cut", *cuts)
    requant("prune", tmp_path / "whole", tmp_path / "both", *cuts, "--sparsity", "2:4", "--method", "wanda")
    cut, both = (load_file(Path(tmp_path / name) / "model.safetensors") for name in ("cut", "both"))
    name = "model.layers.0.mlp.down_proj.weight"
    kept = chosen_units(
        model_at(tmp_path / "whole"),
        Wanted(layers=(1,), hidden=48, ffn=64),
        measured_at(tmp_path / "whole", tmp_path / "stats.gguf"),
    )
    norms = read_entries(tmp_path / "stats.gguf", "blk.1.ffn_down.weight")[0][list(kept[Axis.FFN, 1, -1])]
    scores = (cut[name].abs() * torch.from_numpy(norms).sqrt()).reshape(48, -1, 4)
    lowest = scores.argsort(dim=-1, stable=True)[..., :2]
    wanted = cut[name].reshape(48, -1, 4).scatter(-1, lowest, 0).reshape(48, 64)
    assert torch.equal(both[name], wanted)


def measured_at(folder, path):
    from requant.formats.imatrix import read_imatrix
    from requant.pruning.squares import experts_of, squares_of

    importance = read_imatrix(path)
    return Measured(squares_of(importance, model_at(folder)), experts_of(importance))


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        ("llama", ("--kv-heads", "3"), "--kv-heads 3: the model has 2"),
        ("llama", ("--heads", "3"), "2 groups of keys and values need as many heads each"),
        ("llama", ("--experts", "1"), "the model has none"),
        ("qwen3moe", ("--experts", "1"), "each token goes to 2 of them"),
        ("bert", ("--heads", "2"), "cut both: --heads 2 --hidden 32"),
        ("gpt2", ("--hidden", "32"), "its width is that of all heads"),
        ("phi3", ("--ffn", "32"), "is not known"),
        ("cohere2", ("--hidden", "32"), "the width of cohere2 cannot be cut"),
        ("llama", ("--drop-layers", "0-1"), "leaves no layer"),
    ],
)
def test_what_would_not_load_is_refused(family, options, told, tmp_path):
    tiny_models.make(family, tmp_path / "whole")
    result = run("prune", tmp_path / "whole", tmp_path / "cut", *options)
    assert result.exit_code in (2, 4) and told in " ".join(result.output.split()), result.output
