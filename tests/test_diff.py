"""`requant diff`: each difference is found under its name, nothing else is, and bad input is told."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from requant.comparing.settings import canonical
from requant.formats import open as open_model
from requant.formats import opened
from requant.ir import Typed
from requant.operations.compare import compare, with_numbers
from tests.command import run
from tests.gguf_files import save
from tests.tiny_folder import write_tiny_folder
from tests.tiny_models import make

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder, and a GGUF made of it; tests copy what they change."""
    root = tmp_path_factory.mktemp("models")
    write_tiny_folder(root / "tiny", torch.float32)
    (root / "tiny" / "generation_config.json").write_text('{"do_sample": true, "top_k": 20}')
    assert run("convert", root / "tiny", root / "tiny.gguf", "-q").exit_code == 0
    return root


@pytest.fixture
def changed(models, tmp_path):
    """A function that makes a copy of the folder with other files: name -> what is done to what is in it."""

    def change(files, folder="changed"):
        shutil.copytree(models / "tiny", tmp_path / folder)
        for name, edit in files.items():
            path = tmp_path / folder / name
            if name.endswith(".safetensors"):
                tensors = load_file(path)
                edit(tensors)
                save_file(tensors, path, metadata={"format": "pt"})
            elif name.endswith(".json"):
                document = json.loads(path.read_text()) if path.exists() else {}
                edit(document)
                path.write_text(json.dumps(document))
            else:
                path.write_text(edit)
        return tmp_path / folder

    return change


def compared(a, b, *, values=False):
    sides = [(found.name, source) for found, source in (opened(Path(path), as_stored=True) for path in (a, b))]
    found = compare(*sides)
    return with_numbers(found, 2) if values else found


def told(found):
    """{key: (status, a, b)} of the settings that differ, tokenizers' among them."""
    rows = [*found.settings, *found.vocabularies.settings]
    return {row.key: (row.status.value, row.a, row.b) for row in rows if row.is_difference}


# What config.json says


CONFIGS: Mapping[str, tuple[object, Mapping[str, object], Mapping[str, object]]] = {
    "a hyperparameter": (
        lambda config: config.update(rope_theta=1e6),
        {"rope_theta": ("differs", 10000.0, 1000000.0)},
        {"llama.rope.freq_base": ("differs", 1000000.0, 10000.0)},
    ),
    "one that is missing, and has a default": (lambda config: config.pop("rope_theta"), {}, {}),
    "one that is its default": (lambda config: config.update(mlp_bias=False, attention_bias=False), {}, {}),
    "rope as transformers 5 says it": (
        lambda config: config.update(
            rope_parameters={"rope_type": "default", "rope_theta": config.pop("rope_theta")},
            dtype=config.pop("torch_dtype"),
        ),
        {},
        {},
    ),
    "scaled rope": (
        lambda config: config.update(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        {
            "rope_scaling.factor": ("only b", None, 4.0),
            "rope_scaling.rope_type": ("only b", None, "linear"),
        },
        {
            "llama.rope.scaling.type": ("only a", "linear", None),
            "llama.rope.scaling.factor": ("only a", 4.0, None),
        },
    ),
    "nothing but who wrote it": (lambda config: config.update(transformers_version="9"), {}, {}),
    "what GGUF has no key for": (
        lambda config: config.update(initializer_range=0.5),
        {"initializer_range": ("only b", None, 0.5)},
        {},
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_are_compared_by_what_they_mean(case, models, changed):
    edit, beside_folder, beside_gguf = CONFIGS[case]
    folder = changed({"config.json": edit})
    found = compared(models / "tiny", folder)
    assert told(found) == beside_folder and found.equal is not bool(beside_folder)
    found = compared(folder, models / "tiny.gguf")
    assert told(found) == beside_gguf and found.equal is not bool(beside_gguf)


def test_what_one_side_alone_can_hold_is_told_apart(models, changed):
    folder = changed({"config.json": lambda config: config.update(initializer_range=0.5)})
    found = compared(folder, models / "tiny.gguf")
    held = {row.key: row.status.value for row in found.settings}
    assert held["initializer_range"] == "only a can hold it"
    assert held["general.file_type"] == "only b can hold it"
    assert found.equal


def test_how_a_model_likes_to_be_sampled(models, changed):
    folder = changed({"generation_config.json": lambda config: config.update(top_k=40)})
    assert told(compared(models / "tiny", folder)) == {"generation_config.json: top_k": ("differs", 20, 40)}
    assert told(compared(folder, models / "tiny.gguf")) == {"general.sampling.top_k": ("differs", 40, 20)}


def test_other_files_of_folders(models, changed):
    found = compared(models / "tiny", changed({"notes.txt": "x"}))
    assert [(row.name, row.status.value) for row in found.files] == [("notes.txt", "only b")] and not found.equal


def test_a_family_that_is_not_known_keeps_its_keys():
    assert canonical({"a": {"b": [1]}, "c": None}, None) == {"a.b": [1]}


# Metadata of GGUFs


def gguf(models, path, metadata=None, without=()):
    source = open_model(models / "tiny.gguf")
    kept = {key: typed for key, typed in source.metadata.items() if key not in without}
    object.__setattr__(source, "metadata", kept | (metadata or {}))
    save(source, path)
    return path


METADATA = {
    "another value": ({"llama.context_length": Typed("u32", 9)}, (), {"llama.context_length": ("differs", 512, 9)}),
    "another type": ({"llama.context_length": Typed("u64", 512)}, (), {"llama.context_length": ("differs", 512, 512)}),
    "a key more": ({"general.license": Typed("str", "mit")}, (), {"general.license": ("only b", None, "mit")}),
    "what llama.cpp implies": ({}, ("llama.rope.dimension_count", "llama.vocab_size"), {}),
    "NaN, which is itself": ({"x": Typed("f32", float("nan"))}, (), {"x": ("only b", None, "nan")}),
    "a special token": (
        {"tokenizer.ggml.eos_token_id": Typed("u32", 5)},
        (),
        {"tokenizer.ggml.eos_token_id": ("differs", 1, 5)},
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata(case, models, tmp_path):
    metadata, without, wanted = METADATA[case]
    other = gguf(models, tmp_path / "other.gguf", metadata, without)
    found = told(compared(models / "tiny.gguf", other))
    assert {key: tuple("nan" if value != value else value for value in row) for key, row in found.items()} == wanted
    assert compared(other, other).equal


def test_of_two_architectures_keys_meet_under_one_name(models, tmp_path):
    source = open_model(models / "tiny.gguf")
    metadata = {key.replace("llama.", "qwen2."): typed for key, typed in source.metadata.items()}
    object.__setattr__(source, "metadata", metadata | {"general.architecture": Typed("str", "qwen2")})
    save(source, tmp_path / "other.gguf")
    found = compared(models / "tiny.gguf", tmp_path / "other.gguf")
    assert told(found).keys() == {"general.architecture"}
    assert any("different families: A is llama, B is qwen2" in note for note in found.notes)


# Tokenizers


def vocabulary(edit):
    """What is done to the vocabulary of tokenizer.json."""
    return {"tokenizer.json": lambda document: edit(document["model"], document["added_tokens"])}


def swap(model, _):
    model["vocab"]["th"], model["vocab"]["the"] = model["vocab"]["the"], model["vocab"]["th"]


TOKENIZERS = {
    "tokens that changed places": (swap, lambda found: {(t.text, t.a, t.b) for t in found.tokens}, None),
    "merges in another order": (
        lambda model, _: model["merges"].reverse(),
        lambda found: (found.merges.moved, found.merges.only_a, found.tokens),
        (True, (), ()),
    ),
    "a merge less": (
        lambda model, _: model["merges"].pop(),
        lambda found: (found.merges.only_a, found.merges.only_b, found.merges.moved),
        (("Ġ a",), (), False),
    ),
    "a token that is special no more": (
        lambda model, added: added[1].update(special=False),
        lambda found: found.retyped,
        (("</s>", "control", "user defined"),),
    ),
}


@pytest.mark.parametrize("beside", ["tiny", "tiny.gguf"])
@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(case, beside, models, changed):
    edit, look, wanted = TOKENIZERS[case]
    found = compared(models / beside, changed(vocabulary(edit))).vocabularies
    if wanted is None:
        ids = json.loads((models / "tiny" / "tokenizer.json").read_text())["model"]["vocab"]
        wanted = {("th", ids["th"], ids["the"]), ("the", ids["the"], ids["th"])}
    assert look(found) == wanted and found.differ


def test_a_template_is_a_diff_of_its_lines(models, changed):
    def with_template(text):
        return {"tokenizer_config.json": lambda config: config.update(chat_template=text)}

    one, other = changed(with_template("a\nb\nc"), "one"), changed(with_template("a\nB\nc"), "other")
    (template,) = compared(one, other).vocabularies.templates
    assert template.diff[2:] == ("@@ -1,3 +1,3 @@", " a", "-b", "+B", " c")
    (template,) = compared(one, changed(with_template("a\nb\nc\n"), "longer")).vocabularies.templates
    assert template.diff[-1] == "+"


def test_files_spelled_otherwise_are_the_same_tokenizer(models, changed):
    folder = changed({"tokenizer.json": lambda document: None})
    assert (folder / "tokenizer.json").read_text() != (models / "tiny" / "tokenizer.json").read_text()
    found = compared(models / "tiny", folder)
    assert found.equal and not found.vocabularies.same_files and found.vocabularies.tokens_a == 264


def test_a_tokenizer_that_no_gguf_has_is_compared_by_its_tokens(models, changed):
    def strange(document):
        document["model"]["type"] = "WordLevel"
        document["model"].pop("merges")

    one = changed({"tokenizer.json": strange}, "one")
    other = changed({"tokenizer.json": lambda d: (strange(d), d["model"]["vocab"].update(th=999))}, "other")
    found = compared(one, other)
    assert [(t.text, t.b) for t in found.vocabularies.tokens] == [("th", 999)]
    assert any("tokenizers are not compared" in note for note in found.notes)


# Tensors


def named(suffix, tensors):
    return next(name for name in tensors if name.endswith(suffix))


DOWN = "model.layers.1.mlp.down_proj.weight"


def test_a_tensor_that_is_missing(models, changed):
    folder = changed({"model.safetensors": lambda tensors: tensors.pop(DOWN)})
    rows = [row for row in compared(models / "tiny", folder).rows if row.status]
    assert [(row.name, row.differs, row.layer, row.role) for row in rows] == [(DOWN, ("only a",), 1, "mlp.down_proj")]
    # beside a GGUF the folder is not what its family has: the GGUF is said as a folder instead
    found = compared(models / "tiny.gguf", folder)
    assert found.words.value == "hf" and "missing" in found.notes[0]
    assert [row.name for row in found.rows if row.status] == [DOWN]


def test_more_tokens_are_another_shape_of_which_the_first_rows_are_compared(models, changed):
    def more(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = np.concatenate([embedding, embedding[:8]])

    found = compared(models / "tiny", changed({"model.safetensors": more}), values=True)
    row = next(row for row in found.rows if row.reshaped)
    assert row.differs == ("shape",) and row.numbers.values == 264 * 256 and not row.numbers.changed


def test_every_change_of_a_number_is_found_where_it_is(models, changed):
    def edit(tensors):
        tensors[DOWN][3, 5] = -tensors[DOWN][3, 5]
        tensors[named("1.self_attn.q_proj.weight", tensors)][7, 9] = np.nan

    folder = changed({"model.safetensors": edit})
    for other, names in ((models / "tiny", (DOWN, "model.layers.1.self_attn.q_proj.weight")),):
        found = compared(other, folder, values=True)
        rows = {row.name: row.numbers for row in found.rows if row.changed}
        assert rows.keys() == set(names)
        assert (rows[names[0]].changed, rows[names[0]].flipped, rows[names[1]].bad_b) == (1, 1, 1)
    found = compared(models / "tiny.gguf", folder, values=True)
    assert {row.name for row in found.rows if row.changed} == {"blk.1.ffn_down.weight", "blk.1.attn_q.weight"}
    assert found.summed(lambda row: row.role)[0][0] == "attn_q", "what is no number is the worst"
    assert found.summed(lambda row: row.layer)[0][0] == 1 and found.total.bad_b == 1


def test_names_that_trainers_wrap_are_no_difference(models, changed):
    def wrap(tensors):
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    found = compared(models / "tiny", changed({"model.safetensors": wrap}))
    assert not [row for row in found.rows if row.status or row.reshaped]
    assert any("DataParallel" in note for note in found.notes)


def test_a_model_of_no_family_is_compared_by_its_names(models, changed, tmp_path):
    def strange(config):
        config.update(model_type="strange", architectures=["StrangeModel"])

    one, other = changed({"config.json": strange}, "one"), changed({"config.json": strange}, "other")
    found = compared(one, other, values=True)
    assert found.equal and any("no family of requant's" in note for note in found.notes)
    found = compared(one, models / "tiny.gguf", values=True)  # of which the GGUF is, and its folder has these names
    assert found.words.value == "hf" and not [row for row in found.rows if row.differs]
    found = compared(one, gguf(models, tmp_path / "strange.gguf", {"general.architecture": Typed("str", "strange")}))
    assert found.words.value == "stored" and not found.equal
    assert len([note for note in found.notes if note.startswith("not compared as")]) == 2


def test_folders_of_two_families_with_other_names_meet_as_ggufs(models, tmp_path):
    make("gpt2", tmp_path / "gpt2")
    found = compared(models / "tiny", tmp_path / "gpt2")
    both = {row.name for row in found.rows if row.status is None}
    assert found.words.value == "gguf" and {"token_embd.weight", "blk.1.ffn_down.weight"} <= both
    assert any("different families" in note for note in found.notes) and "general.name" not in told(found)
    assert found.rows[0].a.shape != found.rows[0].b.shape


def test_tensors_alone_beside_a_folder_are_compared_by_themselves(models, tmp_path):
    shutil.copy(models / "tiny" / "model.safetensors", tmp_path / "alone.safetensors")
    found = compared(tmp_path / "alone.safetensors", models / "tiny", values=True)
    assert {row.status.value for row in found.settings if row.about == "model"} == {"only b can hold it"}
    assert not [row for row in found.rows if row.differs]
    assert all(key.startswith("generation_config.json") for key in told(found))


def test_adapters_beside_each_other_and_beside_a_model(models):
    folders = sorted(path for path in (FIXTURES / "adapters").iterdir() if (path / "adapter_config.json").exists())
    assert compared(folders[0], folders[0], values=True).equal
    result = run("diff", folders[0], models / "tiny")
    assert result.exit_code == 4 and "is an adapter" in result.output and "hint:" in result.output


def test_a_model_with_an_adapter_on_it_is_what_merge_makes(models, changed, tmp_path):
    def tune(tensors):
        for name in tensors:
            if "q_proj" in name:
                tensors[name] = tensors[name] + np.float32(0.01) * np.random.default_rng(0).normal(
                    size=tensors[name].shape
                ).astype(np.float32)

    tuned, adapter, merged = changed({"model.safetensors": tune}), tmp_path / "adapter", tmp_path / "merged"
    words = ["merge", "--extract-lora", models / "tiny", tuned, "--rank", "2", "-o", adapter, "-q"]
    assert run(*words).exit_code == 0
    assert run("merge", f"{models / 'tiny'}+{adapter}", "-o", merged, "-q").exit_code == 0
    for base in ("tiny", "tiny.gguf"):
        words = ["diff", f"{models / base}+{adapter}", merged, "--values", "--json"]
        found = json.loads(run(*words).stdout)
        assert found["sums"]["total"]["changed"] == 0 and not any(row["differs"] for row in found["tensors"])
    found = json.loads(run("diff", models / "tiny", f"{models / 'tiny'}+{adapter}", "--values", "--json").stdout)
    assert {row["role"] for row in found["tensors"] if row["differs"]} == {"self_attn.q_proj"}
    assert "lora" in next(row["b"]["values"] for row in found["tensors"] if row["differs"])
    missing = run("diff", f"{models / 'tiny'}+{tmp_path / 'none'}", merged)
    assert missing.exit_code == 2 and "there is no such file" in missing.output


# The command


def test_exit_codes_and_quiet(models, changed):
    same = run("diff", models / "tiny", models / "tiny.gguf", "--quiet")
    assert (same.exit_code, same.output) == (0, "")
    folder = changed({"config.json": lambda config: config.update(rope_theta=1e6)})
    other = run("diff", models / "tiny", folder, "--quiet")
    assert (other.exit_code, other.output) == (1, "")
    assert run("diff", models / "tiny.gguf", models / "tiny.gguf").exit_code == 0


def test_every_tensor_on_its_own_line(models):
    result = run("diff", models / "tiny", models / "tiny.gguf", "--tensors", "--values")
    assert sum(line.endswith(".weight") for line in result.output.splitlines()) == 20


def test_what_is_printed_fits_a_terminal(models, changed):
    folder = changed(vocabulary(swap) | {"config.json": lambda config: config.update(rope_theta=1e6)})
    lines = run("diff", models / "tiny.gguf", folder, "--values").output.splitlines()
    paths = [line for line in lines if str(models) in line or str(folder) in line]
    assert max(len(line) for line in lines if line not in paths) <= 80


@pytest.mark.parametrize("cut", [0, 7, 40, 5000, -1])
@pytest.mark.parametrize("name", ["tiny.gguf", "tiny/model.safetensors"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_truncated_file_is_an_error(models, tmp_path, name, cut, turned):
    shutil.copytree(models / "tiny", tmp_path / "tiny")
    whole = (models / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:cut])
    broken = tmp_path / name.split("/")[0]
    sides = (broken, models / "tiny.gguf") if turned else (models / "tiny.gguf", broken)
    result = run("diff", *sides, "--values")
    assert result.exit_code in (2, 3) and "error:" in result.output


def test_a_file_that_changes_meanwhile_is_an_error(models, tmp_path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    shutil.copy(models / "tiny.gguf", copy)

    def meanwhile(pairs, workers, told):
        copy.write_bytes(copy.read_bytes() + b"\0")
        return []

    monkeypatch.setattr("requant.operations.compare.compared_numbers", meanwhile)
    monkeypatch.setattr("requant.comparing.tensors.Row.comparable", lambda row: None)
    result = run("diff", models / "tiny.gguf", copy, "--values")
    assert result.exit_code == 2 and "copy.gguf" in result.output


def test_strangers_text_is_text(models, tmp_path):
    source = gguf(
        models, tmp_path / "odd.gguf", {"x\x1b[2J": Typed("str", "\x1b]0;title\x07"), "y": Typed("str", "\n")}
    )
    output = run("diff", models / "tiny.gguf", source).output
    assert "\x1b" not in output and "\\x1b" in output
