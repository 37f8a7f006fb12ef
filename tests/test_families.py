"""`requant families`, docs/families.md and README.md say what the tables say."""

import json

import transformers
from click.testing import CliRunner

from requant.architectures import ARCHITECTURES
from requant.cli.main import cli
from requant.projectors import index
from tests.families import DOCS, PROJECTORS, README, listed, page, projectors, readme


def run(*words):
    return CliRunner().invoke(cli, ["families", *words])


def test_the_page_is_made_of_the_tables():
    assert DOCS.read_text() == page(), "python -m tests.families writes it"


def test_the_page_of_projectors_is_made_of_the_tables():
    assert PROJECTORS.read_text() == projectors(), "python -m tests.families writes it"


def test_every_projector_is_listed():
    rows = json.loads(run("--json").stdout)["projectors"]
    assert {row["projector"] for row in rows} == {projector.name for projector in index.every()}
    assert [(name, set(own.split())) for name, _, own in index.TABLE] == [
        (name, set(found.classes)) for (name, _, _), found in zip(index.TABLE, index.every(), strict=True)
    ]


def test_a_projector_is_found_by_its_kind():
    told = run("qwen2.5vl_merger").stdout
    assert "Qwen2_5_VLForConditionalGeneration" in told and "Gemma" not in told


def test_the_list_of_the_readme_is_made_of_the_tables():
    text = README.read_text()
    assert listed() in text and text == readme(text), "python -m tests.families writes it"


def test_every_family_is_listed():
    rows = json.loads(run("--json").stdout)["families"]
    assert {(row["architecture"], row["model_type"]) for row in rows} == {(f.ggml, f.model_type) for f in ARCHITECTURES}
    named = {name for row in rows for name in row["classes"]}
    assert named >= {name for family in ARCHITECTURES for name in family.classes}


def test_some_are_found_by_a_word():
    told = run("Qwen3VLForConditionalGeneration").stdout
    assert "qwen3vl" in told and "gemma" not in told
    assert "a GGUF becomes a Qwen3ForCausalLM" in told and "mmproj" in told


def test_a_word_of_no_family_is_an_error():
    done = run("nothing-like-it")
    assert done.exit_code != 0 and done.stdout == ""


def test_the_model_type_of_every_class_is_that_of_its_family():
    """Else a model as transformers saves it would be told to contradict itself."""
    for family in ARCHITECTURES:
        for name in family.classes:
            kind = getattr(getattr(transformers, name, None), "config_class", None)
            if kind is not None:
                assert kind.model_type in (family.model_type, *family.other_types), name
