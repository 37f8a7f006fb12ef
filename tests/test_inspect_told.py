"""What `inspect` tells besides tensors: tokenizer, templates, origin, importance matrices, folders of models."""

import json
import math
import shutil
from pathlib import Path

import gguf
import jinja2
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from requant.cli.main import cli
from requant.cli.tables import count, json_text
from requant.formats.gguf import Gguf
from requant.formats.imatrix import read_imatrix
from requant.inspection.templates import laid_out
from requant.ir import Typed
from tests.gguf_files import checkpoint as described
from tests.gguf_files import save
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

FIXTURES = Path(__file__).parents[1] / "fixtures/imatrix"
TEMPLATE = "{% for m in messages %}<|im|>{{ m['content'] + '\n' }}\n{% else %}none{%- endfor %}"


def run(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code == code, result.output
    return result


def told(*words):
    return json.loads(run("inspect", *words, "--json").stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_tiny_folder(tmp_path_factory.mktemp("told") / "tiny")
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": TEMPLATE},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    card = "---\nlicense: apache-2.0\nbase_model:\n- owner/base\n- owner/other\ndatasets: owner/data\n---\n# Tiny\n"
    (path / "README.md").write_text(card)
    run("convert", path, path.parent / "tiny.gguf", "--to", "BF16")
    return path


@pytest.fixture(scope="module")
def model(folder):
    return folder.parent / "tiny.gguf"


def test_a_tokenizer_is_told_alike_of_both_formats(folder, model):
    ours, theirs = (told(path, "--tokenizer")["tokenizer"] for path in (folder, model))
    assert ours == theirs
    assert ours["model"] == "gpt2" and ours["tokens"] == 264 and ours["merges"] == 6
    assert ours["types"] == {"normal": 262, "control": 2} and ours["special"]["eos"]["text"] == "</s>"
    assert ours["adds"]["bos"] is True and ours["longest"]["text"] == "Ġthe"


def test_tokens_are_those_of_the_reference(model):
    fields = gguf.GGUFReader(model).fields
    texts, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    listed = told(model, "--tokens", ".")["tokens"]
    assert [one["text"] for one in listed] == texts and [one["id"] for one in listed] == [*range(264)]
    assert [one["type"] == "control" for one in listed] == [kind == 3 for kind in types]


def test_tokens_are_found_as_they_are_stored_and_as_they_are_read(model):
    for pattern in ("^Ġthe$", "^ the$"):
        assert [one["text"] for one in told(model, "--tokens", pattern)["tokens"]] == ["Ġthe"]
    assert '" the"' in run("inspect", model, "--tokens", "^Ġthe$").stdout
    assert "none of the 264 tokens" in run("inspect", model, "--tokens", "nothing", code=4).stderr


def test_sentencepiece_has_scores_and_blanks(tmp_path):
    path = write_tiny_llama(tmp_path / "spm.gguf")
    (one,) = told(path, "--tokens", "^ the$")["tokens"]
    assert one["text"] == "▁the" and one["score"] == -1.0
    assert told(path, "--tokenizer")["tokenizer"]["types"]["byte"] == 256


def test_a_file_without_tokenizer_says_so(tmp_path):
    save(described(), tmp_path / "none.gguf")
    assert "there is no tokenizer in it" in run("inspect", tmp_path / "none.gguf", "--tokenizer", code=4).stderr


def test_templates_are_told_as_they_are_and_shown_laid_out(folder, model):
    for path in (folder, model):
        assert told(path, "--template")["templates"] == {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    shown = run("inspect", model, "--template").stdout
    assert f"chat template default, {len(TEMPLATE)} characters" in shown
    assert shown[shown.index("{% for") :].splitlines()[:6] == [
        "{% for m in messages %}",
        '  "<|im|>"',
        "  {{ m['content'] + '\\n' }}",
        '  "\\n"',
        "{% else %}",
        '  "none"',
    ]


def unlaid(text):
    """A laid out template as a template again: what is in quotes is text, all else are tags."""
    parts = [line.strip() for line in text.split("\n")]
    return "".join(json.loads(part) if part.startswith('"') else part for part in parts if part)


PIECES = ["{% if a %}", "{% endif %}", "{% for x in b %}", "{{ x }}", "{% set c = 1 %}", "text\n", '"', "{#- note -#}"]
PIECES += ["{%- else -%}", "{% endfor %}", "{{ 'a\nb' }}", "  ", "{% set d %}", "{% endset %}"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_nothing_of_a_template_is_lost_when_it_is_laid_out(template):
    assert unlaid(laid_out(template)).replace("\\n", "\n") == template


def test_real_templates_mean_the_same_when_laid_out():
    template = jinja2.Environment().from_string
    values = {"messages": [{"content": "a"}, {"content": "b"}]}
    assert template(unlaid(laid_out(TEMPLATE))).render(values) == template(TEMPLATE).render(values)


def test_where_a_model_comes_from(folder, model):
    ours = told(folder)["origin"]
    assert ours["license"] == "apache-2.0" and ours["base_models"] == ["owner/base", "owner/other"]
    theirs = told(model)["origin"]
    assert (theirs["license"], theirs["base_models"]) == (ours["license"], ours["base_models"])
    assert theirs["datasets"] == ours["datasets"] == ["owner/data"]
    assert "made of          owner/base, owner/other" in run("inspect", model).stdout


@pytest.mark.parametrize("name", ["experts.gguf", "experts.dat"])
def test_an_importance_matrix(name):
    facts = told(FIXTURES / name)["importance"]
    assert facts["datasets"] == ["text.txt"] and facts["chunks"] == 2 and len(facts["entries"]) == 16
    importance = read_imatrix(FIXTURES / name)
    for entry in facts["entries"]:
        measured = importance.entries[entry["name"]]
        assert entry["matrices"] * entry["columns"] == measured.sums.size
        assert entry["unreached"] == importance.unreached(entry["name"])
        top = entry["top"][0]
        row = measured.sums[top["matrix"]]
        assert row.argmax() == top["column"] and row.max() / row.sum() == pytest.approx(top["share"], rel=1e-5)
    assert ("were reached by no token" in run("inspect", FIXTURES / name).stdout) == (name == "experts.gguf")


def test_how_an_importance_matrix_covers_a_model(folder, model, tmp_path):
    checkpoint = Gguf().read(model)
    importance = told(FIXTURES / "smollm2.gguf", "--against", model)["importance"]["coverage"]
    matrices = {t.name for t in checkpoint.tensors if len(t.shape) > 1 and t.name.startswith("blk.")}
    entries = set(read_imatrix(FIXTURES / "smollm2.gguf").entries)
    assert importance["covered"] == 0 and set(importance["misfits"]) == matrices & entries
    assert set(importance["missing"]) == matrices - entries and set(importance["unknown"]) == entries - matrices
    assert told(FIXTURES / "smollm2.gguf", "--against", folder)["importance"]["coverage"] == importance
    assert "covers           0 of 14 matrices" in run("inspect", FIXTURES / "smollm2.gguf", "--against", model).stdout
    assert "--against says nothing" in run("inspect", model, "--against", model, code=4).stderr


def test_a_folder_of_models_has_a_line_for_each(folder, model, tmp_path):
    shutil.copytree(folder, tmp_path / "hf")
    shutil.copy(model, tmp_path / "a.gguf")
    (tmp_path / "deep").mkdir()
    run("split", model, tmp_path / "deep" / "parts", "--max-tensors", "5")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    (tmp_path / "notes.txt").write_text("no model")
    models = {Path(one["path"]).name: one for one in told(tmp_path)["models"]}
    assert list(models) == ["a.gguf", "broken.gguf", "parts-00001-of-00004.gguf", "hf"]
    assert "the file ends here" in models["broken.gguf"]["error"] and models["broken.gguf"]["parameters"] is None
    assert {models[name]["parameters"] for name in ("a.gguf", "hf", "parts-00001-of-00004.gguf")} == {1248512}
    for words in (["--values"], ["--tensors", "."], ["--template"], ["--csv"], ["--ctx", "9"]):
        assert "name one of them" in run("inspect", tmp_path, *words, code=4).stderr
    lines = run("inspect", tmp_path).stdout.splitlines()
    begun = [line.split()[0] for line in lines if not line.startswith(" ")]  # the others are of folded cells
    assert len(begun) == 5 and "notes.txt" not in begun


def test_a_folder_without_models_is_an_error(tmp_path):
    assert "no model, and none inside" in run("inspect", tmp_path, code=2).stderr


@pytest.mark.parametrize("option", [["--metadata"], ["--tokenizer"], ["--tokens", "."], ["--template"]])
def test_a_csv_has_nothing_but_tensors(option, folder):
    assert f"{option[0]} does not go with it" in run("inspect", folder, "--csv", *option, code=2).stderr


def test_a_control_vector(tmp_path):
    metadata = {
        "general.architecture": Typed("str", "controlvector"),
        "controlvector.model_hint": Typed("str", "llama"),
    }
    save(described(metadata), tmp_path / "control.gguf")
    assert (
        "steers           layers of a model of the architecture llama"
        in run("inspect", tmp_path / "control.gguf").stdout
    )


def test_everything_that_gguf_dump_shows_is_told(model, tmp_path):
    run("split", model, tmp_path / "parts", "--max-tensors", "12")
    for path in (model, tmp_path / "parts-00001-of-00002.gguf"):
        document, reader = told(path, "--metadata"), gguf.GGUFReader(path)
        outline = document["gguf"][0]
        for key, field in reader.fields.items():
            if key.startswith("GGUF."):
                named = {"version": "version", "tensor_count": "tensors", "kv_count": "keys"}[key.removeprefix("GGUF.")]
                assert outline[named] == field.contents()
            elif not key.startswith("split."):
                assert document["metadata"][key] == field.contents(), key
                kinds = [kind.name.lower() for kind in field.types]
                kind = document["metadata_types"][key]
                assert kind.startswith("[") == (kinds[0] == "array")
                long = {"uint": "u", "int": "i", "float": "f", "string": "str"}
                name = kinds[-1].rstrip("0123456789")
                assert kind.strip("[]") == long.get(name, name) + kinds[-1].removeprefix(name)
        assert outline["alignment"] == reader.alignment and outline["data_offset"] == reader.data_offset
        assert f"GGUF version 3, {count(outline['tensors'])} tensors" in run("inspect", path, "--metadata").stdout
    assert [one["file"] for one in document["gguf"]] == [f"parts-0000{n}-of-00002.gguf" for n in (1, 2)]


def test_long_lists_of_a_document_are_what_short_ones_are():
    values = {
        "a": [1.5, math.inf, *[2.0] * 2000],
        "b": ["\0\x1b", *map(str, range(1500))],
        "c": [[1], {"d": 2.5}] * 600,
    }
    read = json.loads(json_text(values), parse_constant=pytest.fail)
    assert read["a"] == [1.5, "inf", *[2.0] * 2000] and read["b"] == values["b"] and read["c"] == values["c"]
    assert json_text(values).count("\n") < 10_000
