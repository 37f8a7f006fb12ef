"""Whole merges: recipes and short forms, folders and GGUF files, layers, vocabularies, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from requant import formats
from requant.cards import fingerprint
from requant.cli.main import cli
from requant.parts import read_values
from tests.tiny_folder import write_tiny_folder

Q = "model.layers.{}.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def requant(*arguments, code=0):
    """Run the command; its output."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def finetuned(folder, source, seed, scale=0.01):
    """A copy of `source` with other weights."""
    shutil.copytree(source, folder)
    rng = torch.Generator().manual_seed(seed)
    tensors = load_file(source / "model.safetensors")
    changed = {k: (v.float() + scale * torch.randn(v.shape, generator=rng)).to(v.dtype) for k, v in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = write_tiny_folder(root / "base")
    return {"base": base, "a": finetuned(root / "a", base, 1), "b": finetuned(root / "b", base, 2)}


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """A folder in which the models can be named shortly."""
    for name, folder in models.items():
        (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tensors_of(path):
    return {tensor.name: read_values(tensor).reshape(tensor.shape) for tensor in formats.open(Path(path)).tensors}


def bfloat(x):
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).float().numpy()


def test_a_recipe_with_gradients_and_filters(here):
    Path("r.yaml").write_text(
        """
        merge_method: linear
        models:
          - {model: a, parameters: {weight: [1, 0]}}
          - model: b
            parameters: {weight: [{filter: mlp, value: 0.25}, {filter: q_proj, value: [0, "1e0"]}, {value: 1}]}
        parameters: {normalize: false}
        dtype: bfloat16
        """
    )
    requant("merge", "r.yaml", "-o", "out")
    a, b, out = tensors_of("a"), tensors_of("b"), tensors_of("out")
    assert list(out) == list(a)
    for name in out:
        last = ".1." in name
        wa = 0 if last else 1  # outside of layers the first point counts
        wb = 0.25 if "mlp" in name else (1 if last else 0) if "q_proj" in name else 1
        assert np.array_equal(out[name], bfloat(a[name] * np.float32(wa) + b[name] * np.float32(wb))), name
    assert json.loads(Path("out/config.json").read_text())["torch_dtype"] == "bfloat16"
    card = Path("out/README.md").read_text()
    assert "merge_method: linear" in card
    assert all(fingerprint(Path(model, "model.safetensors")) in card for model in "ab")
    assert Path("out/tokenizer.json").read_bytes() == Path("a/tokenizer.json").read_bytes()


def test_the_short_form_says_the_same(here):
    Path("r.yaml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "- {model: a, parameters: {weight: 0.5, density: 0.4}}\n- {model: b, parameters: {weight: 0.7, density: 0.4}}\n"
    )
    requant("merge", "r.yaml", "-o", "one", "-q")
    requant(
        "merge", "a", "b", "--base", "base", "--method", "ties", "--weight", "0.5,0.7", "--density", "0.4", "-o", "two"
    )
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["dare_ties", "della", "ties"])
def test_bytes_do_not_depend_on_threads(here, method):
    files = set()
    for threads in (1, 3):
        out = f"out{threads}"
        more = ["--density", "0.5", "--weight", "1", "--threads", threads, "-q"]
        more += ["--seed", "7"] if method != "ties" else []
        requant("merge", "base", "a", "b", "--method", method, "-o", out, *more)
        files.add(Path(out, "model.safetensors").read_bytes())
    assert len(files) == 1
    if method != "ties":
        requant("merge", "base", "a", "b", "--method", method, "-o", "other", "--density", "0.5", "--weight", "1", "-q")
        assert Path("other/model.safetensors").read_bytes() not in files  # of another seed


def test_ggufs_and_folders_give_the_same_model(here):
    requant("convert", "a", "a-Q8_0.gguf", "--to", "Q8_0", "-q")
    requant("convert", "b", "b-Q4_K_M.gguf", "--to", "Q4_K_M", "-q")
    options = ["--method", "slerp", "--t", "0.4", "--to", "Q4_K_M", "-q"]
    requant("merge", "a-Q8_0.gguf", "b-Q4_K_M.gguf", "-o", "quantized.gguf", *options)
    requant("merge", "a", "b", "-o", "dense.gguf", *options)
    one, other = formats.open(Path("quantized.gguf")), formats.open(Path("dense.gguf"))
    assert [(t.name, t.shape, t.encoding) for t in one.tensors] == [
        (t.name, t.shape, t.encoding) for t in other.tensors
    ]
    for mine, theirs in zip(one.tensors, other.tensors, strict=True):
        x, y = read_values(mine), read_values(theirs)
        assert np.linalg.norm(x - y) < 0.1 * np.linalg.norm(y), mine.name  # Q4_K alone is 0.07
    assert one.metadata["requant.merge.inputs"].value.count("fingerprint") == 2
    # and with the row order of a folder: no rope order is done twice
    requant("merge", "a-Q8_0.gguf", "b", "--method", "linear", "--weight", "0.5", "-o", "mixed", "--dtype", "float32")
    a, b, mixed = tensors_of("a"), tensors_of("b"), tensors_of("mixed")
    for name in mixed:
        assert np.allclose(mixed[name], (a[name] + b[name]) / 2, atol=2e-3), name


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_models_of_different_schemes_in_one_recipe(here, method):
    """Quantized inputs count as the numbers they stand for: the same bytes as of folders that have these in F32."""
    kinds = {"gguf": ("base", "Q4_K_M"), "gptq": ("a", "GPTQ"), "fp8": ("b", "FP8"), "awq": ("a", "AWQ")}
    for kind, (source, recipe) in kinds.items():
        path = f"{source}-{kind}" + (".gguf" if kind == "gguf" else "")
        requant("convert", source, path, "--to", recipe, "-q")
        requant("convert", path, f"{source}-{kind}-dense", "--to", "F32", "-q")
    quantized = ["base-gguf.gguf", "a-gptq", "b-fp8", "a-awq"]
    dense = [f"{source}-{kind}-dense" for kind, (source, _) in kinds.items()]
    for models, out in ((quantized, "merged"), (dense, "expected")):
        parameters = {"weight": 0.4, "density": 0.5} if method == "ties" else {"weight": 0.4}
        recipe = {"merge_method": method, "models": [{"model": m, "parameters": parameters} for m in models]}
        recipe |= {"base_model": models[0]} if method == "ties" else {}
        Path("r.yaml").write_text(json.dumps(recipe | {"out_dtype": "bfloat16"}))
        requant("merge", "r.yaml", "-o", out, "-q")
        requant("merge", "r.yaml", "-o", f"{out}.gguf", "--to", "Q4_K_M", "-q")
    assert Path("merged/model.safetensors").read_bytes() == Path("expected/model.safetensors").read_bytes()
    assert "quantization_config" not in json.loads(Path("merged/config.json").read_text())
    one, other = formats.open(Path("merged.gguf")), formats.open(Path("expected.gguf"))
    for mine, theirs in zip(one.tensors, other.tensors, strict=True):
        assert np.array_equal(read_values(mine), read_values(theirs)), mine.name


@pytest.mark.slow
def test_llama_cpp_runs_the_merged_gguf(here):
    from requant.verify.llama_cpp import LlamaCpp

    requant("convert", "a", "a-Q8_0.gguf", "--to", "Q8_0", "-q")
    requant("convert", "b", "b-Q4_K_M.gguf", "--to", "Q4_K_M", "-q")
    options = ["--method", "linear", "--weight", "0.6,0.4", "-q"]
    requant("merge", "a-Q8_0.gguf", "b-Q4_K_M.gguf", "-o", "merged.gguf", "--to", "Q4_K_M", *options)
    requant("merge", "a", "b", "-o", "exact.gguf", "--to", "F32", "--dtype", "float32", *options)
    tokens = [5, 9, 77, 12, 40, 3, 90, 200]
    logits = []
    for file in ("merged.gguf", "exact.gguf"):
        with LlamaCpp(Path(file), n_ctx=64, precise=True) as runtime:
            logits.append(runtime.logits(tokens))
    merged, exact = logits
    assert np.corrcoef(merged.ravel(), exact.ravel())[0, 1] > 0.98


def test_layers_are_kept_repeated_and_dropped(here):
    base = tensors_of("base")
    requant("merge", "base", "--keep-layers", "1,0-1", "-o", "deep", "-q")
    deep = tensors_of("deep")
    assert json.loads(Path("deep/config.json").read_text())["num_hidden_layers"] == 3
    for layer, source in enumerate((1, 0, 1)):
        assert np.array_equal(deep[Q.format(layer)], base[Q.format(source)])
    plan = json.loads(requant("merge", "base", "--keep-layers", "1", "-o", "x", "--dry-run", "--json"))
    assert {step["fidelity"] for step in plan["steps"]} == {"copy"}
    requant("convert", "base", "base.gguf", "--to", "Q4_K_M", "-q")
    requant("merge", "base.gguf", "--drop-layers", "0", "-o", "small.gguf", "-q")
    whole = {tensor.name: tensor for tensor in formats.open(Path("base.gguf")).tensors}
    small = {tensor.name: tensor for tensor in formats.open(Path("small.gguf")).tensors}
    assert set(small) == {name.replace("blk.1.", "blk.0.") for name in whole if "blk.0." not in name}
    for name, tensor in small.items():
        source = whole[name.replace("blk.0.", "blk.1.")]
        assert tensor.encoding == source.encoding
        assert np.array_equal(read_values(tensor), read_values(source))
    requant("merge", "base", "--student", "1", "--mapping", "last", "-o", "student", "-q")
    assert np.array_equal(tensors_of("student")[Q.format(0)], base[Q.format(1)])


@pytest.mark.parametrize("option", ["--keep-layers", "--drop-layers"])
@pytest.mark.parametrize("layers", ["", "2", "0-2", "x", "1-", "0-99999999999999999999"])
def test_layers_that_are_not_there(here, option, layers):
    assert option in requant("merge", "base", option, layers, "-o", "out", code=4)
    assert not Path("out").exists()


def test_recipes_that_use_each_other(here):
    first = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}\n"
    second = (
        "merge_method: linear\nmodels: [{model: %s, parameters: {weight: 1}}, {model: base, parameters: {weight: 2}}]\n"
    )
    Path("both.yaml").write_text(f"name: step\n{first}---\n{second % 'step'}")
    requant("merge", "both.yaml", "-o", "at-once", "-q")
    Path("one.yaml").write_text(first)
    requant("merge", "one.yaml", "-o", "between", "-q")
    Path("two.yaml").write_text(second % "between")
    requant("merge", "two.yaml", "-o", "apart", "-q")
    assert Path("at-once/model.safetensors").read_bytes() == Path("apart/model.safetensors").read_bytes()


def with_tokens(folder, source, tokens, padding=0):
    """A copy of a model with tokens of its own, each with a row of its own, and rows that no token has."""
    shutil.copytree(source, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = load_file(folder / "model.safetensors")
    table = weights[EMBEDDING]
    more = torch.randn(len(tokens) + padding, table.shape[1], generator=torch.Generator().manual_seed(len(tokens)))
    weights[EMBEDDING] = torch.cat([table, more.to(table.dtype)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(weights[EMBEDDING])}
    (folder / "config.json").write_text(json.dumps(config))
    return tokenizer, weights[EMBEDDING].float().numpy()


def test_a_union_of_vocabularies_keeps_every_row(here):
    left, left_rows = with_tokens(here / "left", here / "a", ["<x>", "<y>"], padding=5)
    right, right_rows = with_tokens(here / "right", here / "b", ["<z>", "<x>", "<w>"])
    Path("r.yaml").write_text(
        "merge_method: linear\nmodels: [{model: left, parameters: &w {weight: 0.5}}, {model: right, parameters: *w}]\n"
        "tokenizer: {source: union}\ndtype: float32\n"
    )
    requant("merge", "r.yaml", "-o", "out", "-q")
    rows = tensors_of("out")[EMBEDDING]
    union = Tokenizer.from_file("out/tokenizer.json")
    before = len(left_rows) - 5
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == len(rows) == len(left_rows)  # not trimmed
    assert {t: union.token_to_id(t) for t in ("<x>", "<y>", "<z>", "<w>")} == {
        "<x>": before - 2, "<y>": before - 1, "<z>": before, "<w>": before + 1,
    }  # fmt: skip
    for text, index in union.get_vocab().items():
        mine, theirs = left.token_to_id(text), right.token_to_id(text)
        found = [table[n] for table, n in ((left_rows, mine), (right_rows, theirs)) if n is not None]
        assert np.allclose(rows[index], np.mean(found, axis=0), atol=1e-6), text
    assert np.array_equal(rows[before + 2 :], left_rows[before + 2 :])  # rows of no token stay
    assert union.encode("the<z>in").ids == [*union.encode("the").ids, before, *union.encode("in").ids]
    requant("merge", "r.yaml", "-o", "out.gguf", "-q")
    tokens = formats.open(Path("out.gguf")).metadata["tokenizer.ggml.tokens"].value
    assert tokens[before] == "<z>" and len(tokens) == len(rows)


def test_rules_for_single_tokens(here):
    left, left_rows = with_tokens(here / "left", here / "a", ["<x>", "<y>"])
    right, right_rows = with_tokens(here / "right", here / "b", ["<z>"])
    Path("r.yaml").write_text(
        """
        merge_method: linear
        models: [{model: left, parameters: {weight: 0.5}}, {model: right, parameters: {weight: 0.5}}]
        dtype: float32
        tokenizer:
          source: base
          pad_to_multiple_of: 16
          tokens:
            <x>: {source: {kind: zero}}
            <y>: {source: {kind: model_token, model: right, token: <z>}, force: true}
            the: {source: {kind: model_token, model: left, token_id: 4}, force: true}
            <new>: {source: right, force: false}
        """
    )
    output = requant("merge", "r.yaml", "-o", "out", "-q", code=4)
    assert "right has no row for '<new>'" in output
    Path("r.yaml").write_text(Path("r.yaml").read_text().replace("<new>: {source: right, force: false}", ""))
    requant("merge", "r.yaml", "-o", "out", "-q")
    rows, x, y = tensors_of("out")[EMBEDDING], left.token_to_id("<x>"), left.token_to_id("<y>")
    the, z = left.token_to_id("the"), right.token_to_id("<z>")
    assert len(rows) % 16 == 0
    assert np.allclose(rows[x], left_rows[x] / 2, atol=1e-6)  # its own, and zeros
    assert np.allclose(rows[y], right_rows[z], atol=1e-6)  # in both
    if the is not None:
        assert np.allclose(rows[the], left_rows[4], atol=1e-6)
    assert len(rows) > len(left_rows)
    own = (
        left_rows
        + np.array([right_rows[i] if i < len(right_rows) - 1 else left_rows[i] for i in range(len(left_rows))])
    ) / 2
    own[[x, y]] = rows[[x, y]]
    if the is not None:
        own[the] = rows[the]
    assert np.allclose(rows[len(left_rows) :], own.mean(axis=0), atol=2e-4)  # padding is the mean


def test_a_chat_template_and_special_tokens(here):
    Path("r.yaml").write_text("merge_method: passthrough\nmodels: [{model: a}]\nchat_template: chatml\n")
    requant("merge", "r.yaml", "-o", "out", "-q")
    config = json.loads(Path("out/tokenizer_config.json").read_text())
    assert "<|im_start|>" in config["chat_template"] and config["bos_token"] == "<s>"
    requant("merge", "r.yaml", "-o", "out.gguf", "-q")
    assert "<|im_start|>" in formats.open(Path("out.gguf")).metadata["tokenizer.chat_template"].value


GOOD = {
    "merge_method": "linear",
    "models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 1}}],
}
#: What is changed in a good recipe, and what the error says.
BAD = {
    "unknown key": ({"merge_metod": "x"}, "no key is called 'merge_metod'", "did you mean merge_method?"),
    "unknown method": ({"merge_method": "slurp"}, "merge_method: no method is called 'slurp'", "did you mean slerp?"),
    "no method": ({"merge_method": None}, "has no merge_method", ""),
    "unknown parameter": ({"parameters": {"wieght": 1}}, "parameters: no method has a parameter 'wieght'", "weight?"),
    "not a number": ({"parameters": {"normalize": "perhaps"}}, "parameters.normalize: must be true or false", ""),
    "text for a number": (
        {"models": [{"model": "a", "parameters": {"weight": "heavy"}}]},
        "models[0].parameters.weight: must be a number, found 'heavy'",
        "",
    ),
    "infinite": ({"models": [{"model": "a", "parameters": {"weight": "inf"}}]}, "must be a finite number", ""),
    "key of a model": ({"models": [{"model": "a", "wait": 1}]}, "models[0]: no key is called 'wait'", ""),
    "no weight": ({"models": [{"model": "a"}, {"model": "b"}]}, "linear needs weight of a", ""),
    "weights cancel": (
        {"models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": -1}}]},
        "the weights add up to 0",
        "",
    ),
    "nothing": ({"models": []}, "models: must be a list with something in it", ""),
    "two kinds": ({"slices": [{"sources": []}]}, "has models and slices", ""),
    "a base that is missing": ({"merge_method": "ties"}, "ties needs a base_model", ""),
    "too many": (
        {"merge_method": "slerp", "base_model": "base", "parameters": {"t": 1}},
        "slerp takes 2 models, not 3",
        "",
    ),
    "no t": ({"merge_method": "slerp", "base_model": "a"}, "slerp needs t", ""),
    "more than none": (
        {"merge_method": "ties", "base_model": "base", "parameters": {"density": -0.5, "weight": 1}},
        "parameters.density: must be of 0 to 1, found '-0.5'",
        "",
    ),
    "more than all": (
        {"merge_method": "sce", "base_model": "base", "parameters": {"select_topk": 1.5}},
        "parameters.select_topk: must be of 0 to 1, found '1.5'",
        "",
    ),
    "beyond float32": ({"parameters": {"weight": 1e39}, "models": [{"model": "a"}]}, "that float32 can hold", ""),
    "weights beyond float32": (
        {"parameters": {"weight": 3e38}, "models": [{"model": "a"}, {"model": "b"}]},
        "the weights add up to more than float32 can hold",
        "",
    ),
    "weights below float32": (
        {"parameters": {"weight": 1e-50}, "models": [{"model": "a"}, {"model": "b"}]},
        "the weights add up to 0",
        "",
    ),
    "twice": ({"models": [GOOD["models"][0], GOOD["models"][0]]}, "a is merged with itself", ""),
    "twice in other words": (
        {"merge_method": "task_arithmetic", "base_model": "./base", "models": [*GOOD["models"], {"model": "base/"}]},
        "./base is merged with itself, which is base/ as well",
        "",
    ),
    "dtype": ({"dtype": "bf16"}, "dtype: merges are not computed in 'bf16'", ""),
    "layers": (
        {"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [0, 9]}]}]},
        "layers 0 to 8 of a model with 2",
        "",
    ),
    "no layers": (
        {"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [2, 2]}]}]},
        "from 2 to 2 there is no layer",
        "",
    ),
    "unequal": (
        {
            "models": None,
            "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 1]}]}],
        },
        "takes 1 and 2 layers of its sources",
        "",
    ),
    "epsilon": (
        {"merge_method": "della", "base_model": "base", "parameters": {"density": 0.9, "epsilon": 0.2}},
        "density 0.9 and epsilon 0.2 make probabilities beyond 0 and 1",
        "",
    ),
    "a module that is none": (
        {"models": None, "modules": {"text_decoder": {"models": GOOD["models"]}}},
        "modules.text_decoder: no module of these models is called 'text_decoder'",
        "default",
    ),
    "both tokenizers": (
        {"tokenizer": {"source": "union"}, "tokenizer_source": "base"},
        "tokenizer_source: cannot stand beside tokenizer",
        "",
    ),
    "token rule": (
        {"tokenizer": {"tokens": {"<x>": {"source": {"kind": "one"}}}}},
        "no kind of source is called 'one'",
        "",
    ),
    "a token rule without a kind": (
        {"tokenizer": {"tokens": {"<x>": {"source": {"kind": None, "model": "a"}}}}},
        "no key is called 'kind'",
        "",
    ),
    "half a letter in a token": (
        {"tokenizer": {"tokens": {"<\ud800>": {"source": "a"}}}},
        "has half of a surrogate pair",
        "",
    ),
    "half a letter in a model": ({"models": [{"model": "a\udfff"}]}, "has half of a surrogate pair", ""),
    "template": ({"chat_template": "chatmI"}, "'chatmI' is neither a template nor known", "chatml"),
    "no model": ({"models": [{"model": "nowhere", "parameters": {"weight": 1}}]}, "nowhere: there is no such", ""),
}


def test_filters_that_decide_nothing_are_told(here):
    """A name that no tensor has, and one that comes after a value for all; others are not."""
    Path("r.yaml").write_text(
        """
        merge_method: linear
        models:
          - {model: a, parameters: {weight: [{filter: mpl, value: 0.3}, {filter: self_attn, value: 0.4}, {value: 1}]}}
          - {model: b, parameters: {weight: [{value: 1}, {filter: mlp, value: 0.2}]}}
        parameters: {t: [{filter: nothing, value: 1}]}
        """
    )
    output = requant("merge", "r.yaml", "-o", "out")
    assert "models[0].parameters.weight[0].value: the filter 'mpl' fits no tensor" in output
    assert "models[1].parameters.weight[1].value: the filter 'mlp' fits no tensor" in output
    assert "self_attn" not in output and "'nothing'" not in output
    requant("merge", "r.yaml", "-o", "other", "--fail-on-loss", code=4)
    assert not Path("other").exists()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_ends_while_planning(here, name):
    change, message, hint = BAD[name]
    recipe = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    Path("bad.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(cli, ["merge", "bad.yaml", "-o", "out"], catch_exceptions=False)
    assert result.exit_code in (2, 4), result.output
    assert message in result.output
    assert hint in result.output
    assert not Path("out").exists()


def bomb(depth):
    """A list of ten lists of ten lists, and so on, which aliases say in a line."""
    inside = bomb(depth - 1) if depth else "1"
    return f"&n{depth} [{inside}" + 9 * (f", *n{depth - 1}" if depth else ", 1") + "]"


def test_numbers_too_large_for_the_result_are_not_called_damage(here):
    output = requant(
        "merge", "a", "b", "--method", "linear", "--weight", "3e38", "--param", "normalize=false", "-o", "x", code=2
    )
    assert "it is computed" in output and "--replace-nan" not in output


def test_a_recipe_that_is_no_yaml(here):
    for text, told in (
        ("a: [", "line 1: not YAML"),
        ("models: []\nmodels: []\n", "the key 'models' stands twice"),
        ("", "there is no recipe in it"),
        ("- 1", "must be a mapping"),
        ("merge_method: linear\nmodels: " + bomb(9), "models[0]: must be a mapping, found '["),
        ("name: x\nmerge_method: linear\n---\nname: x\n", "has no models"),
    ):
        Path("bad.yaml").write_text(text)
        assert told in requant("merge", "bad.yaml", "-o", "out", code=4)


def changed(folder, source, change):
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_contradictions_of_models_are_told_at_once(here):
    def broken(tensors):
        del tensors["model.norm.weight"], tensors[Q.format(1)]
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(512, 255)
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(256)

    changed(here / "broken", here / "a", broken)
    output = requant("merge", "a", "broken", "--method", "linear", "--weight", "1", "-o", "out", code=4)
    for told in ("model.norm.weight", Q.format(1), "[512, 256] and [512, 255]", "a lacks", "q_proj.bias"):
        assert told in output
    assert output.splitlines()[1].startswith("  ")  # each on its line


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "della", "sce", "karcher"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_is_named_where_it_is(here, method, value):
    def broken(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = value

    changed(here / "broken", here / "b", broken)
    models = ["a", "broken"] if method == "slerp" else ["base", "a", "broken"]
    more = {"slerp": ["--t", "0.5"], "ties": ["--density", "0.5"], "della": ["--density", "0.5"]}.get(method, [])
    more += ["--weight", "1"] if method in ("linear", "ties", "della") else []
    output = requant("merge", *models, "--method", method, *more, "-o", "out", code=2)
    assert "broken/model.safetensors" in output
    assert "'model.layers.1.mlp.up_proj.weight': the value in row 5, column 7 is" in output
    assert not Path("out").exists()


def test_a_tied_and_an_untied_head(here):
    def untied(tensors):
        tensors["lm_head.weight"] = tensors[EMBEDDING].clone() * 2

    changed(here / "untied", here / "b", untied)
    config = json.loads((here / "untied/config.json").read_text()) | {"tie_word_embeddings": False}
    (here / "untied/config.json").write_text(json.dumps(config))
    requant("merge", "a", "untied", "--method", "linear", "--weight", "0.5", "--dtype", "float32", "-o", "out", "-q")
    a, b, out = tensors_of("a"), tensors_of("untied"), tensors_of("out")
    assert np.allclose(out["lm_head.weight"], (a[EMBEDDING] + b["lm_head.weight"]) / 2, atol=1e-6)
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False


def test_other_tokens_at_the_same_rows_are_refused(here):
    shutil.copytree(here / "b", here / "other")
    text = (here / "other/tokenizer.json").read_text()
    document = json.loads(text)
    vocab = document["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    (here / "other/tokenizer.json").write_text(json.dumps(document))
    output = requant("merge", "a", "other", "--method", "linear", "--weight", "1", "-o", "out", code=4)
    assert "differ in 2 tokens: 'A', 'B'" in output and "union" in output
    requant("merge", "a", "other", "--method", "linear", "--weight", "1", "-o", "out", "--tokenizer", "base", "-q")
    a, b, out = tensors_of("a")[EMBEDDING], tensors_of("b")[EMBEDDING], tensors_of("out")[EMBEDDING]
    A, B = Tokenizer.from_file("a/tokenizer.json").token_to_id("A"), vocab["A"]
    assert np.array_equal(out[A], bfloat((a[A] + b[B]) / 2))


def test_planning_imports_neither_numba_nor_torch(here):
    import subprocess
    import sys

    code = (
        "import sys; from requant.cli.main import cli\n"
        "cli(['merge', 'base', 'a', 'b', '--method', 'ties', '--weight', '1', '-o', 'out', '--dry-run'],"
        " standalone_mode=False)\n"
        "assert not {'numba', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_layers_of_a_deeper_model(here):
    requant("merge", "b", "--keep-layers", "0,1,0,1", "-o", "deeper", "-q")
    Path("r.yaml").write_text(
        "merge_method: passthrough\nslices:\n"
        "- {sources: [{model: a, layer_range: [0, 2]}]}\n- {sources: [{model: deeper, layer_range: [2, 4]}]}\n"
    )
    requant("merge", "r.yaml", "-o", "out", "-q")
    out, a, b = tensors_of("out"), tensors_of("a"), tensors_of("b")
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 4
    for layer, source in enumerate((a[Q.format(0)], a[Q.format(1)], b[Q.format(0)], b[Q.format(1)])):
        assert np.array_equal(out[Q.format(layer)], source)
