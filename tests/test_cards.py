"""`--card`: what huggingface_hub and a Markdown parser read of the README.md that is written with a model."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

from requant.cards import code, fingerprint, front_matter, plain, split_card, table
from requant.cli.carded import command_text
from requant.cli.main import cli
from requant.formats import FORMATS, detect
from requant.formats.imatrix.legacy import legacy_bytes
from requant.importance import Importance, Measured
from requant.operations.card import Making, with_cards
from requant.operations.convert import Request, plan_conversion
from tests.tiny_folder import write_tiny_folder

HOSTILE = "a|b`c``\n---\n# x <script>alert(1)</script> & [l](javascript:x) \u2028 \x1b[2J no: {"
CARD = """---
license: other
license_name: "{}"
language: [en, "no"]
base_model: org/base
base_model_relation: finetune
tags: [chat, "a: b"]
pipeline_tag: text-generation
library_name: transformers
widget:
- text: Hello
model-index:
- name: tiny
  results: []
---
# Tiny

Words of the original | here.
"""

#: Halves of surrogate pairs are no text: they become `?`.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.fixture
def here(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    (tmp_path / "tiny/README.md").write_text(CARD)
    with chdir(tmp_path):
        yield tmp_path


def requant(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def card_of(folder):
    """What the Hub's own library makes of a card: metadata, and the text."""
    card = ModelCard.load(Path(folder, "README.md"))
    return card.data.to_dict(), card.text


def parsed(text):
    return MarkdownIt("commonmark").enable("table").parse(text)


def tables(text):
    """The cells of each table, as a reader sees them."""
    found, row = [], []
    for token in parsed(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append(row := [])
        elif token.type == "inline" and found and token.level > 3:
            row.append("".join(child.content for child in token.children))
    return found


def test_several_recipes_share_a_card(here):
    said = requant("convert", "tiny", "out", "--to", "Q4_K_M,Q8_0", "--card", "--card-set", "quantized_by=me")
    assert "model card: out/README.md" in said.stdout
    assert sorted(path.name for path in Path("out").iterdir()) == ["README.md", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]
    data, text = card_of("out")
    assert data == {
        "base_model": "org/base",
        "base_model_relation": "quantized",
        "license": "other",
        "license_name": "{}",
        "language": ["en", "no"],
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["chat", "a: b", "gguf", "llama", "requant"],
        "quantized_by": "me",
    }
    files, sources = tables(text)
    assert [row[:2] for row in files[1:]] == [["tiny-Q4_K_M.gguf", "Q4_K_M"], ["tiny-Q8_0.gguf", "Q8_0"]]
    assert [row[3] for row in files[1:]] == [f"{Path('out', row[0]).stat().st_size:,}" for row in files[1:]]
    assert [row[4] for row in files[1:]] == ["5 repacked exactly, 15 rounded"] * 2
    assert sources[1][-1] == fingerprint(Path("tiny/model.safetensors"))
    assert "requant convert tiny out --to Q4_K_M,Q8_0 --card --card-set quantized_by=me\n" in text
    assert "Words of the original" not in text  # it is what base_model is for


def test_a_folder_keeps_the_words_of_the_original(here):
    requant("convert", "tiny", "dense", "--to", "F16", "--card")
    data, text = card_of("dense")
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "finetune")  # as it is of the original
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["chat", "a: b", "llama", "requant"]
    assert data["widget"] == [{"text": "Hello"}]
    assert text.count("Words of the original | here.\n") == 1
    assert text.index("## How it was made") < text.index("# Tiny\n")
    assert "model-index" in Path("dense/README.md").read_text()  # numbers are the same


@pytest.mark.parametrize(
    ("recipe", "tag"), [("MLX-4-32", "mlx"), ("GPTQ-4-32", "gptq"), ("W8A8", "compressed-tensors")]
)
def test_a_quantized_folder_says_how(here, recipe, tag):
    said = json.loads(requant("convert", "tiny", "out", "--to", recipe, "--card", "--json").stdout)
    assert "README.md" in [file["name"] for file in said["files"]]
    assert [loss["detail"] for loss in said["losses"] if loss["subject"] == "README.md"] == [
        "model-index: results of the model before it was rounded"
    ]
    data, text = card_of("out")
    assert data["base_model_relation"] == "quantized"
    assert data["library_name"] == ("mlx" if tag == "mlx" else "transformers")
    assert data["tags"] == ["chat", "a: b", tag, "llama", "requant"]
    assert tables(text)[0][1][1] == recipe


def test_a_gguf_of_a_gguf(here):
    requant("convert", "tiny", "tiny.gguf", "--to", "F16")
    entry = Measured(np.ones((1, 256), np.float32), np.ones(1, np.int64))
    importance = Importance({"blk.0.attn_q.weight": entry}, ("/home/me/words.txt",), 7, 512)
    Path("imatrix.gguf").write_bytes(legacy_bytes(importance))
    words = (
        "requantize",
        "tiny.gguf",
        here / "out" / "small.gguf",
        "Q4_0",
        "--imatrix",
        here / "imatrix.gguf",
        "--card",
    )
    said = requant(*words)
    assert "small.gguf, README.md: " in said.stdout
    data, text = card_of("out")
    assert data["base_model"] == "org/base"
    assert data["license"] == "other"
    assert data["language"] == ["en", "no"]
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["chat", "a: b", "gguf", "llama", "requant"]
    assert "requant requantize tiny.gguf small.gguf Q4_0 --imatrix imatrix.gguf --card\n" in text
    assert str(here) not in text
    assert "Importance matrix: `imatrix.gguf`, measured on `words.txt`, 7 chunks." in text
    assert fingerprint(Path("imatrix.gguf")) in text
    assert gguf.GGUFReader("out/small.gguf").tensors


def test_what_is_there_stays_without_force(here):
    Path("README.md").write_text("mine")
    said = requant("convert", "tiny", "out.gguf", "--to", "Q8_0", "--card", code=4)
    assert "README.md exists" in said.stderr
    assert "--force" in said.stderr
    said = requant("convert", "tiny", "many-{}.gguf", "--to", "Q8_0,Q4_0", "--card", code=4)
    assert "README.md exists" in said.stderr
    assert Path("README.md").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["README.md", "tiny"]
    requant("convert", "tiny", "out.gguf", "--to", "Q8_0", "--card", "--force")
    assert card_of(".")[0]["library_name"] == "gguf"
    said = requant("convert", "tiny", "tiny/out.gguf", "--to", "Q8_0", "--card", "--force", code=4)
    assert "is the card of the source" in said.stderr
    assert Path("tiny/README.md").read_text() == CARD


def test_a_failure_leaves_no_card(here):
    arrays = load_file("tiny/model.safetensors")
    name = sorted(name for name in arrays if "down_proj" in name)[-1]
    save_file(arrays | {name: torch.full_like(arrays[name], torch.nan)}, "tiny/model.safetensors")
    requant("convert", "tiny", "out.gguf", "--to", "Q8_0", "--card", code=2)
    requant("convert", "tiny", "new/out-{}.gguf", "--to", "Q8_0,Q4_0", "--card", code=2)
    assert [path.name for path in Path().iterdir()] == ["tiny"]


def test_a_dry_run_lists_it_and_writes_nothing(here):
    said = json.loads(requant("convert", "tiny", "out.gguf", "--to", "Q8_0", "--card", "--dry-run", "--json").stdout)
    (size,) = [file["bytes"] for file in said["files"] if file["name"] == "README.md"]
    lines = requant("convert", "tiny", "out.gguf", "--to", "Q8_0", "--card", "--dry-run").stdout.splitlines()
    assert ["README.md", f"{size:,}"] in [line.split() for line in lines]
    assert [path.name for path in Path().iterdir()] == ["tiny"]


def test_what_the_user_sets_counts(here):
    given = ("base_model=me/tiny", "language=", "tags=[a, b]", "license=mit")
    settings = (word for one in given for word in ("--card-set", one))
    said = requant("convert", "tiny", "x.gguf", "--to", "Q8_0", "--card", *settings)
    assert "base_model" not in said.stderr
    data, text = card_of(".")
    assert (data["base_model"], data["license"], data["tags"]) == ("me/tiny", "mit", ["a", "b"])
    assert "language" not in data
    assert "[me/tiny](https://huggingface.co/me/tiny), quantized to GGUF with requant." in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--card-set", "a=b"), "goes with --card"),
        (("--card", "--card-set", "a"), "is not KEY=VALUE"),
        (("--card", "--card-set", "a=[}"), "no YAML"),
        (("--card", "--card-set", "=x"), "is not KEY=VALUE"),
    ],
)
def test_settings_that_are_none(here, words, told):
    said = CliRunner().invoke(cli, ["convert", "tiny", "x.gguf", *words])
    assert said.exit_code != 0
    assert told in said.stderr


def test_the_base_is_told_where_nobody_says_what_the_source_is_called(here):
    said = requant("convert", "tiny", "x.gguf", "--to", "Q8_0", "--card")
    assert "base_model is org/base, of which the source says it was made" in said.stderr
    snapshot = Path("hub/models--own--er.name/snapshots/0123")
    snapshot.parent.mkdir(parents=True)
    Path("tiny").rename(snapshot)
    said = requant("convert", snapshot, "y/y.gguf", "--to", "Q8_0", "--card")
    assert "base_model" not in said.stderr
    assert card_of("y")[0]["base_model"] == "own/er.name"


def test_an_adapter_says_of_what(here):
    folder = Path(__file__).parents[1] / "fixtures/adapters"
    adapter = next(path for path in sorted(folder.iterdir()) if (path / "adapter_config.json").exists())
    shutil.copytree(adapter, "adapter")
    Path("adapter/README.md").write_text("---\nbase_model: org/base\n---\n")
    source = detect(Path("adapter")).read(Path("adapter"))
    plan = plan_conversion(detect(Path("tiny")).read(Path("tiny")), FORMATS["gguf"], Path("a.gguf"), Request("F16"))
    (made,) = with_cards(["F16"], [plan], Making(source, "adapter", "requant", adapter=True))
    Path("README.md").write_bytes(made.layout.files[-1].head)
    assert card_of(".")[0]["base_model_relation"] == "adapter"


def test_strings_of_a_model_are_data(here):
    name = "tiny|`x`\n<b>"
    front = {"license": "other", "license_name": HOSTILE, "tags": [HOSTILE], "base_model": HOSTILE, "x": HOSTILE}
    Path("tiny/README.md").write_text(front_matter(front) + "# x\n", "utf-8")
    Path("tiny").rename(name)
    requant("convert", name, "out/x|y.gguf", "--to", "Q8_0", "--card")
    requant("convert", name, "folder|`<b>", "--to", "BF16", "--card")
    for folder in ("out", "folder|`<b>"):
        data, text = card_of(folder)
        assert data["license_name"] == HOSTILE
        assert HOSTILE in data["tags"]
        assert data.get("base_model") is None if folder == "out" else data["x"] == HOSTILE
        assert not [token for token in parsed(text) if token.type == "html_block"]
        inline = [child.type for token in parsed(text) for child in token.children or ()]
        assert "html_inline" not in inline
        assert all(len(row) == len(rows[0]) for rows in tables(text) for row in rows)


@given(st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=3), max_size=3))
def test_front_matter_holds_any_text(values):
    text = front_matter(values) + "body\n---\n"
    card = ModelCard(text, ignore_metadata_errors=False) if values else None
    front, body = split_card(text)
    assert body == "body\n---\n"
    assert (yaml.safe_load(front) or {}) == values
    if card is not None:
        assert card.text == "body\n---\n"


@given(st.text())
def test_cells_hold_any_text(text):
    ((head, row),) = tables("\n".join(table(["one", "two"], [[code(text or "x"), plain(text)]])))
    assert head == ["one", "two"]
    assert len(row) == 2
    lines = parsed("\n".join(table(["one"], [[plain(text)]])))
    kinds = {child.type for token in lines for child in token.children or ()}
    assert kinds <= {"text", "text_special"}, kinds


def test_folders_of_others_are_not_published():
    words = [
        "/home/me/model",
        "out.gguf",
        "--imatrix=../x/i.gguf",
        "--override-kv",
        "a=str:@/tmp/t",
        "owner/name",
        "a/b",
    ]
    assert command_text("convert", words) == (
        "requant convert model out.gguf --imatrix=i.gguf --override-kv a=str:@t owner/name a/b"
    )


def test_an_original_that_is_too_large_is_told(here):
    Path("tiny/README.md").write_text("x" * (17 << 20))
    said = json.loads(requant("convert", "tiny", "out", "--to", "F16", "--card", "--json").stdout)
    assert ["README.md", "more than 16 MB: the card replaces it"] in [
        [o["subject"], o["detail"]] for o in said["losses"]
    ]
    assert Path("out/README.md").stat().st_size < 10_000


def test_a_merge_writes_a_card_that_the_hub_reads(here):
    shutil.copytree("tiny", "other|x")
    requant("merge", "tiny", "other|x", "--method", "linear", "--weight", "0.5,0.5", "-o", "out", "-q")
    data, text = card_of("out")
    assert data == {"tags": ["merge", "requant"], "library_name": "transformers"}
    assert [rows[1][0] for rows in tables(text)] == ["model.safetensors"] * 2
