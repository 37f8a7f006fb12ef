"""`--html` without a browser: what is written, when, and what is refused."""

import base64
import gzip
import hashlib
import html
import importlib.util
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from requant.cli.pages import writing
from requant.cli.pages.content import Column, Page, Tensors
from requant.cli.pages.trial import trial_page
from requant.errors import PlanError
from tests.command import run
from tests.models import missing
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama


@pytest.fixture(autouse=True)
def _library():
    if importlib.util.find_spec("uplot") is None:
        missing("uplot-python is not installed: it is one of requant[html]")


@pytest.fixture
def model(tmp_path):
    write_tiny_llama(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


class _Seen(HTMLParser):
    """Every element and attribute, and the text of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.inside, self.texts = [], [], "", {"script": [], "style": []}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = "" if dict(attrs).get("type") == "text/plain" else tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in self.texts:
            self.texts[self.inside].append(data)


def seen(page):
    parser = _Seen()
    parser.feed(page)
    return parser


def unpacked(page):
    """The tensors that a page's scripts are given."""
    (packed,) = re.findall(r'<script type="text/plain" id="data">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_a_page_says_what_the_terminal_says(model, tmp_path):
    page = tmp_path / "page.html"
    result = run("inspect", model, "--html", page, "--tensors", "attn_q")
    assert result.exit_code == 0
    assert f"{page}: page of " in result.stderr
    shown = run("inspect", model, "--json")
    document = json.loads(shown.stdout)
    content = unpacked(page.read_text())
    columns = {column["key"]: column["values"] for column in content["columns"]}
    assert columns["name"] == [tensor["name"] for tensor in document["tensors"]]
    assert columns["bytes"] == [tensor["bytes"] for tensor in document["tensors"]]
    assert [content["roles"][role] for role in content["roleOf"]][:1] == [columns["name"][0].removesuffix(".weight")]
    assert f"{document['bits_per_weight']:.3f}" in page.read_text()


def test_standard_output_has_one_document_beside_a_page(model, tmp_path):
    result = run("inspect", model, "--html", tmp_path / "page.html", "--json")
    assert json.loads(result.stdout)["document"] == "inspection"
    assert (tmp_path / "page.html").exists()


def test_the_policy_names_what_is_in_the_page(model, tmp_path):
    run("inspect", model, "--html", tmp_path / "page.html")
    found = seen((tmp_path / "page.html").read_text())
    (policy,) = [value for key, value in found.attributes if value and value.startswith("default-src")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind, texts in found.texts.items():
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not {"img", "link", "iframe", "object", "embed"} & set(found.tags)
    assert not {key for key, _ in found.attributes} & {"src", "srcset", "style", "action", "onload", "onerror"}


def test_foreign_text_is_escaped_wherever_it_stands(tmp_path):
    hostile = "</script></style><img src=x onerror=alert(1)><!-- \u202e\x1b[2J\ud800"
    entries = Page(hostile, hostile, hostile, notes=[hostile])
    page = writing.rendered(entries).decode()
    assert "img" not in seen(page).tags
    assert "&lt;/script&gt;" in page
    assert "\\u202e\\x1b[2J\\ud800" in page
    name = "<!--<script>"
    save_file({name: np.ones(3, np.float32)}, tmp_path / "m.safetensors", {name: f"{name}\n{name}"})
    run("inspect", tmp_path / "m.safetensors", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert name not in page
    assert unpacked(page)["columns"][0]["values"] == [name]


def test_what_is_no_page_is_not_replaced(model, tmp_path):
    before = model.read_bytes()
    result = run("inspect", model, "--html", model)
    assert result.exit_code == 4
    assert "is no page of requant's" in result.stderr
    assert model.read_bytes() == before
    assert run("inspect", model, "--html", tmp_path).exit_code == 4
    page = tmp_path / "page.html"
    assert [run("inspect", model, "--html", page).exit_code for _ in range(2)] == [0, 0]
    page.write_text("<!doctype html>\n<html>mine</html>")
    assert run("inspect", model, "--html", page).exit_code == 4
    assert page.read_text().endswith("mine</html>")


def test_a_folder_of_models_has_no_page(model, tmp_path):
    (tmp_path / "zoo").mkdir()
    model.rename(tmp_path / "zoo/tiny.gguf")
    result = run("inspect", tmp_path / "zoo", "--html", tmp_path / "page.html")
    assert (result.exit_code, "is a folder of models" in result.stderr) == (4, True)
    assert not (tmp_path / "page.html").exists()


def test_a_pipe_is_not_waited_for(model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert run("inspect", model, "--html", tmp_path / "pipe").exit_code == 4


def test_scripts_make_no_markup_of_text():
    for script in (Path(writing.__file__).parent / "scripts").iterdir():
        assert script.name in writing._SCRIPTS
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script.read_text()
        )
        assert found == [], script


def test_a_page_is_there_whole_or_not_at_all(model, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    run("inspect", model, "--html", page)
    before = page.read_bytes()

    def full(descriptor, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("requant.system.write_at", full)
    result = run("inspect", model, "--html", page)
    assert (result.exit_code, "the disk is full" in result.stderr) == (4, True)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "tiny.gguf"]


@pytest.mark.parametrize("missing", ["jinja2", "uplot-python"])
def test_the_extra_is_named_where_it_is_missing(model, tmp_path, monkeypatch, missing):
    for cached in (writing._library, writing._template):
        cached.cache_clear()
    if missing == "jinja2":
        monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    else:
        monkeypatch.setattr(writing, "_PACKAGE", "uplot-of-nobody")
    result = run("inspect", model, "--html", tmp_path / "page.html")
    assert result.exit_code == 4
    assert 'pip install "requant[html]"' in result.stderr
    assert not (tmp_path / "page.html").exists()
    monkeypatch.undo()
    for cached in (writing._library, writing._template):
        cached.cache_clear()


def test_a_library_that_would_end_the_script_is_refused(monkeypatch, tmp_path):
    static = tmp_path / "uplot/static"
    static.mkdir(parents=True)
    (static / "uPlot.iife.js").write_text("'</SCRIPT>'")
    (static / "uPlot.min.css").write_text("")

    class Package:
        version = "0"
        locate_file = staticmethod(lambda name: tmp_path / name)

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Package)
    writing._library.cache_clear()
    with pytest.raises(PlanError, match="cannot stand in a page"):
        writing._library()
    monkeypatch.undo()
    writing._library.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_tiny_folder(root / "other")
    return write_tiny_folder(root / "tiny")


def test_a_receipt_has_the_error_of_every_rounded_tensor(folder, tmp_path):
    page = tmp_path / "page.html"
    result = run("convert", folder, tmp_path / "out.gguf", "--to", "Q4_K_M", "--html", page, "--json")
    document = json.loads(result.stdout)
    assert f"{page}: page of " in result.stderr
    columns = {column["key"]: column["values"] for column in unpacked(page.read_text())["columns"]}
    errors = dict(zip(columns["name"], columns["error"], strict=True))
    measured = {name: error for name, error in errors.items() if error is not None}
    assert measured == pytest.approx(document["relative_errors"], rel=1e-7)
    assert {did for did, error in zip(columns["did"], columns["error"], strict=True) if error is None} == {"repack"}
    said = run("requantize", tmp_path / "out.gguf", tmp_path / "less.gguf", "Q4_0", "--html", page)
    text = html.unescape(page.read_text())
    for line in said.stdout.splitlines():
        reason = line.partition(": ")[2]
        if " rounded again to " in reason:
            assert reason in text, line
    assert "round twice" in unpacked(page.read_text())["columns"][4]["values"]


@pytest.mark.parametrize(
    "words", ["merge {0} {0}/../other --method linear --weight 0.5,0.5 -o out", "convert {0} out --to GPTQ"]
)
def test_every_command_that_writes_has_a_page(folder, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert run(*words.format(folder).split(), "--html", "out/page.html").exit_code == 0
    page = (tmp_path / "out/page.html").read_text()
    assert "<h1>out</h1>" in page
    assert len(unpacked(page)["layers"]) > 10
    assert "model.safetensors" in page


def test_a_plan_has_a_page_too(folder, tmp_path):
    page = tmp_path / "page.html"
    run("convert", folder, tmp_path / "out.gguf", "--to", "Q4_K_M", "--html", page, "--dry-run")
    assert "not written yet" in page.read_text()
    assert "error" not in {column["key"] for column in unpacked(page.read_text())["columns"]}
    assert not (tmp_path / "out.gguf").exists()


def test_a_page_in_place_of_the_model_is_refused_before_the_work(folder, tmp_path):
    result = run("convert", folder, tmp_path / "out.gguf", "--to", "Q4_K_M", "--html", tmp_path / "out.gguf")
    assert result.exit_code == 4
    assert "is a file of the model" in result.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_a_page_that_cannot_be_written_leaves_the_model(folder, tmp_path, monkeypatch):
    def full(path, page):
        raise PlanError("the disk is full", hint="nothing was changed")

    monkeypatch.setattr(writing, "write_page", full)
    result = run("convert", folder, tmp_path / "out.gguf", "--to", "Q8_0", "--html", tmp_path / "page.html")
    assert (result.exit_code, "hint: the model is complete" in result.stderr) == (4, True)
    assert run("inspect", tmp_path / "out.gguf").exit_code == 0


@pytest.mark.parametrize("ok", [True, False])
def test_the_page_of_a_check(model, ok):
    figure = {"value": 1.5, "error": "nan"}
    worst = {"kl_99": 0.5, "kl_99_error": 0.25, "kl_max": "inf", "kl_max_error": "nan"}
    divergence = {"kl": figure, **worst, "top1": {"value": 0.75, "error": 0.01}, "ratio": figure}
    document = json.loads(run("inspect", model, "--json", "--metadata").stdout)
    check = {
        "ok": ok,
        "model": "some/where/x.gguf",
        "info": {"description": "llama <1B>", "parameters": 1234, "tensor_bytes": 2, "seconds": 0.5, "width": 4},
        "warnings": ["warned"],
        "answer": {"prompt": "<b>Who", "text": "Nobody\n\nat all", "chat": True, "tokens": 3, "tokens_per_second": 4.5},
        "perplexity": figure,
        "scored_tokens": 1000,
        "window": 512,
        "tokens_per_second": 5.5,
        "embedded": 0,
        "against": {
            "reference": "another",
            "tokens_equal": False,
            "perplexity": figure,
            "divergence": divergence,
            "cosine": None,
        },
        "versus": {
            "model": "another <Q4>.gguf",
            "divergence": divergence,
            "difference": {"kl": {"value": -0.25, "error": 0.03}, "closer": {"value": 0.625, "error": 0.01}},
            "deviations": 8.3,
            "real": True,
        },
        "failures": [] if ok else ["it fails"],
    }
    page = writing.rendered(trial_page(check, document)).decode()
    for text in (
        "1.5000",
        "± nan",
        "inf",
        "75.00%",
        "0.5000 ± 0.2500",
        "another &lt;Q4&gt;.gguf",
        "the first is better, by 8.3 standard errors",
        "&lt;b&gt;Who",
        "Nobody\n\nat all",
        "DIFFERENT",
        "<h1>x.gguf</h1>",
    ):
        assert text in page
    assert ("it fails" in page, ">passed</strong>" in page, ">failed</strong>" in page) == (not ok, ok, not ok)
    columns = unpacked(page)["columns"]
    assert columns[0]["values"][0] == document["tensors"][0]["name"] and "error" not in [one["key"] for one in columns]
    names = [tensor["name"] for tensor in document["tensors"]]
    errors = {name: n / 8 for n, name in enumerate(names[1:])}
    page = writing.rendered(trial_page(check | {"relative_errors": errors}, document)).decode()
    (told,) = (one for one in unpacked(page)["columns"] if one["key"] == "error")
    assert told["values"] == [None, *errors.values()] and told["title"] == "relative error"


def test_the_page_of_a_diff(folder, tmp_path):
    run("convert", folder, tmp_path / "b.gguf", "--to", "Q4_K_M", "--override-kv", "general.name=str:<i>B</i>")
    page = tmp_path / "page.html"
    result = run("diff", folder, tmp_path / "b.gguf", "--values", "--html", page, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    content = unpacked(page.read_text())
    columns = {column["key"]: column["values"] for column in content["columns"]}
    rows = document["tensors"]
    assert columns["name"] == [row["name"] for row in rows]
    assert columns["error"] == pytest.approx([row["numbers"]["relative_error"] for row in rows], rel=1e-7)
    assert content["layers"] == [row["layer"] for row in rows]
    assert [content["roles"][role] for role in content["roleOf"]] == [row["role"] for row in rows]
    assert content["order"] == "error"
    text = page.read_text()
    assert ">different</strong>" in text
    assert "&lt;i&gt;B&lt;/i&gt;" in text
    for row in document["settings"]:
        assert row["key"] in text
    assert f"{document['sums']['total']['relative_error']:.5f}" in text
    for words in ([], ["--quiet"]):
        same = run("diff", folder, folder, "--html", page, *words)
        assert (same.exit_code, same.output == "") == (0, bool(words))
    assert ">equal</strong>" in page.read_text()
    assert "order" in unpacked(page.read_text())


def test_the_page_of_a_diff_of_models_with_nothing_in_common(folder, tmp_path):
    page = tmp_path / "page.html"
    save_file({"only.here": np.ones((2, 3), np.float32)}, tmp_path / "other.safetensors")
    assert run("diff", folder, tmp_path / "other.safetensors", "--values", "--html", page).exit_code == 1
    columns = {column["key"]: column["values"] for column in unpacked(page.read_text())["columns"]}
    assert columns["differs"][columns["name"].index("only.here")] == "only b"
    assert set(columns["type"]) == {"F32", "none"}


def test_values_and_their_histograms_are_in_the_page(folder, tmp_path):
    page = tmp_path / "page.html"
    document = json.loads(run("inspect", folder, "--values", "--html", page, "--json").stdout)
    content = unpacked(page.read_text())
    columns = {column["key"]: column["values"] for column in content["columns"]}
    values = [tensor["values"] for tensor in document["tensors"]]
    for key in ("min", "max", "mean", "std", "kurtosis"):
        assert columns[key] == pytest.approx([one[key] for one in values], rel=1e-7), key
    for key in ("zeros", "outliers", "nan", "inf"):
        assert columns[key] == [one[key] for one in values], key
    assert content["histograms"] == [one["histogram"] for one in values]
    run("inspect", folder, "--html", page)
    assert unpacked(page.read_text())["histograms"] == []


def test_histograms_of_very_many_tensors_have_fewer_bins():
    histogram = {"edges": list(range(65)), "counts": list(range(64)), "below": 1, "above": 2}
    for tensors, bins in ((10, 64), (5_000, 32), (30_000, 16)):
        columns = [Column("name", "tensor", "text", ["x"] * tensors)]
        content = Tensors(columns, [None] * tensors, ["x"] * tensors, histograms=[histogram] * tensors).to_json()
        found = content["histograms"][-1]
        assert (len(found["counts"]), len(found["edges"]), sum(found["counts"])) == (bins, bins + 1, sum(range(64)))
        assert (found["edges"][0], found["edges"][-1], found["below"], found["above"]) == (0, 64, 1, 2)
