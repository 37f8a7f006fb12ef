"""Modelfiles: what Ollama's reader finds in them, and that its templates write what the models' own write."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.errors import PlanError
from requant.ir import Typed
from requant.ollama import rendering, sandbox, turns
from requant.ollama.go import go_template, literal
from requant.ollama.modelfile import modelfile, quoted
from requant.ollama.rendering import Conversation, Unrenderable
from requant.ollama.turns import Place, turns_of
from tests.chat_templates import TEMPLATES
from tests.command import run
from tests.models import llama_cpp_sources, missing, smollm2
from tests.ollama import GO, commands, executed
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

BOS, EOS = "<s>", "</s>"
TALK = [
    ("user", "What is 2 + 2?"),
    ("assistant", "4,\n\nas <b>always</b>"),
    ("user", "{{ .Content }} sure? \u00e9 \U0001f600"),
]
TALKS = [TALK[:1], TALK, [*TALK, ("assistant", "yes"), ("user", "ok"), ("assistant", "!"), ("user", "bye")]]
TALKS += [[("system", "Be\n\nbrief, {% please %}."), *talk] for talk in TALKS]
#: llama.cpp's templates that do not write turns alone, and what they need.
UNKNOWN = {"strftime_now", "iterable", "functions"}


def by_jinja(template):
    """What the template writes of each talk, without the token that llama.cpp adds; those that it refuses left out."""
    asked = [[[{"role": role, "content": text} for role, text in talk], True] for talk in TALKS]
    said = sandbox.rendered(template, {"bos_token": BOS, "eos_token": EOS}, asked)
    return [(talk, one["text"].removeprefix(BOS)) for talk, one in zip(TALKS, said, strict=True) if "text" in one]


def with_default(turns, talk):
    """The messages as Ollama has them: its SYSTEM is the first, where none is given."""
    return [("system", turns.default), *talk] if turns.default and talk[0][0] != "system" else talk


@pytest.fixture
def at_once(monkeypatch):
    """Templates that are known to end are rendered in this process."""

    def rendered(template, names, conversations):
        asked = [([{"role": r, "content": text} for r, text in one.messages], one.speaks) for one in conversations]
        said = sandbox.rendered(template, names, asked)
        return [one["text"] if "text" in one else Unrenderable(one["error"]) for one in said]

    monkeypatch.setattr(turns, "rendered", rendered)


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_writes_what_jinja_does(name, at_once):
    found = turns_of(TEMPLATES[name], BOS, EOS, adds_bos=True)
    said = by_jinja(TEMPLATES[name])
    assert len(said) == (3 if found.place is Place.REFUSED else 6)
    for talk, wanted in said:
        assert executed(go_template(found), with_default(found, talk)) == wanted


def test_what_the_system_says_is_not_lost_where_a_template_refuses_it():
    found = turns_of(TEMPLATES["mistral v1"], BOS, EOS, adds_bos=True)
    assert executed(go_template(found), [("system", "Rule."), *TALK]).startswith(
        "[INST] Rule.\n\nWhat is 2 + 2? [/INST]"
    )


def test_a_token_that_llama_cpp_does_not_add_stays_in_the_template():
    kept = go_template(turns_of(TEMPLATES["llama3"], BOS, EOS, adds_bos=False))
    assert kept == BOS + go_template(turns_of(TEMPLATES["llama3"], BOS, EOS, adds_bos=True))


@pytest.mark.slow
def test_go_itself_writes_what_jinja_does(tmp_path, at_once):
    """The templates of llama.cpp's models and ours, with Go's text/template."""
    if shutil.which("go") is None:
        missing("go is not there: apt-get install golang-go")
    theirs = sorted((llama_cpp_sources() / "models/templates").glob("*.jinja"))
    templates = [*TEMPLATES.values(), *(path.read_text("utf-8") for path in theirs)]
    cases, wanted, unknown = [], [], []
    for template in templates:
        try:
            found = turns_of(template, BOS, EOS, adds_bos=True)
        except Unrenderable as error:
            unknown.append(str(error))
            continue
        for talk, text in by_jinja(template):
            said = [{"Role": role, "Content": content} for role, content in with_default(found, talk)]
            cases.append({"Template": go_template(found), "Messages": said})
            wanted.append(text)
    (tmp_path / "main.go").write_text(GO)
    environment = os.environ | {"GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off", "GOFLAGS": ""}
    done = subprocess.run(
        ["go", "run", "main.go"],
        input=json.dumps(cases).encode(),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted
    assert (len(theirs), len(unknown)) == (70, 9)  # as docs/publishing.md says
    assert all(any(word in reason for word in UNKNOWN) for reason in unknown), unknown


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages", "unexpected end of template"),
        ("{{ raise_exception('only with tools') }}", "only with tools"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "as it is"),
        ("{{ messages[-1].content }}", "as it is"),
        ("{% for m in messages %}{{ loop.index ~ m.content }}{% endfor %}", "their place"),
        ("{% for m in messages if m.role != 'system' %}{{ m.role ~ m.content }}{% endfor %}", "what the system says"),
        ("{% for m in messages %}{{ m.role ~ m.content | length ~ m.content }}{% endfor %}", "their place|depends"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ strftime_now('%Y') }}", "strftime_now"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
    ],
)
def test_a_template_that_is_not_made_of_turns_is_told(template, reason):
    with pytest.raises(Unrenderable, match=reason):
        turns_of(template, BOS, EOS, adds_bos=True)


@pytest.mark.parametrize(
    "template", ["{{ 'a' * 9999999999 }}", "{% for m in messages %}{{ 'x' * 5000000 }}{% endfor %}"]
)
def test_a_template_without_end_takes_no_memory(template):
    with pytest.raises(Unrenderable, match=r"memory|without end|MemoryError"):
        turns_of(template, BOS, EOS, adds_bos=True)


def test_a_template_that_takes_for_ever_is_stopped(monkeypatch):
    monkeypatch.setattr(rendering, "PATIENCE", 0.5)
    inside = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(Unrenderable, match="too much time"):
        rendering.rendered(inside, {}, [Conversation((("user", "a"),))])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text('"{} \n\\a\x00', max_size=12))
def test_any_text_of_a_template_comes_through_a_modelfile(text):
    found = commands(f'FROM ./a.gguf\nTEMPLATE """{literal(text)}"""\n')
    assert executed(dict(found)["template"], [("user", "a")]) == text


@given(st.text(st.sampled_from('ab" \n\t<|#'), min_size=1, max_size=8).filter(lambda text: '"""' not in text))
def test_a_value_comes_through_a_modelfile(value):
    text = f"FROM ./a.gguf\nPARAMETER stop {quoted(value)}\nSYSTEM {quoted(value)}\nPARAMETER top_k 3\n"
    assert commands(text) == [("from", "./a.gguf"), ("stop", value), ("system", value), ("top_k", "3")]


def metadata(template, tokens=(), **rest):
    said = {
        "tokenizer.ggml.model": Typed("str", "llama"),
        "tokenizer.ggml.tokens": Typed("[str]", ["<unk>", BOS, EOS, "user", *tokens]),
        "tokenizer.ggml.token_type": Typed("[i32]", [2, 3, 3, 1, *[3] * len(tokens)]),
        "tokenizer.chat_template": Typed("str", template),
    }
    return said | {key.replace("__", "."): value for key, value in rest.items()}


def test_a_modelfile_says_what_the_gguf_does():
    sampling = {
        "general__sampling__temp": Typed("f32", 0.6000000238418579),
        "general__sampling__top_k": Typed("i32", 20),
        "general__sampling__min_p": Typed("f32", float("nan")),
        "general__sampling__penalty_repeat": Typed("f32", 1.0499999523162842),
        "general__license": Typed("str", "apache-2.0"),
    }
    made = modelfile(metadata(TEMPLATES["qwen3"], ["<|im_start|>", "<|im_end|>"], **sampling), "my model.gguf")
    (first, *rest) = commands(made.text)
    assert first == ("from", "./my model.gguf")
    assert [one for one in rest if one[0] != "template"] == [
        ("stop", "<|im_end|>"),
        ("stop", "<|im_start|>"),
        ("system", 'You are Q.\nBe "good".'),
        ("temperature", "0.6"),
        ("top_k", "20"),
        ("repeat_penalty", "1.05"),
        ("license", "apache-2.0"),
    ]
    assert (
        executed(dict(rest)["template"], [("user", "Hi")]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert made.untold == ()


@pytest.mark.parametrize(
    ("name", "tokens", "stops"),
    [
        ("llama3", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
         ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]),
        ("gemma", ["<start_of_turn>", "<end_of_turn>"], ["<end_of_turn>", "<start_of_turn>"]),
        ("mistral v1", [], [EOS, "[INST]"]),
        ("llama2", [], [EOS, BOS, "[INST]"]),
        ("vicuna", [], [EOS, "USER:"]),
        ("alpaca", [], [EOS, "### Instruction:"]),
        ("zephyr", [], [EOS, "<|user|>"]),
    ],
)  # fmt: skip
def test_stops_are_what_ends_a_turn(name, tokens, stops):
    made = modelfile(metadata(TEMPLATES[name], tokens), "a.gguf")
    assert [value for command, value in commands(made.text) if command == "stop"] == stops


def test_a_default_that_a_modelfile_cannot_say_stands_in_the_template():
    template = TEMPLATES["chatml"].replace("helpful", 'help\u200b""" ful')
    said = dict(commands(modelfile(metadata(template), "a.gguf").text))
    assert "system" not in said
    for talk, wanted in by_jinja(template):
        assert executed(said["template"], talk) == wanted


def test_what_cannot_be_said_is_told():
    made = modelfile(metadata("{{ messages[0].content }}"), "a.gguf")
    assert commands(made.text) == [("from", "./a.gguf")]
    assert "no TEMPLATE" in made.untold[0][1]
    made = modelfile(metadata(TEMPLATES["chatml"].replace("helpful", "\udcff")), "a.gguf")
    assert "not UTF-8" in made.untold[0][1]
    with pytest.raises(PlanError, match="cannot name"):
        modelfile(metadata(TEMPLATES["chatml"]), "a\nPARAMETER stop x.gguf")


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "chat.jinja").write_text(TEMPLATES["zephyr"])
    return write_tiny_llama(tmp_path / "tiny.gguf")


def test_a_modelfile_appears_with_its_gguf(tiny):
    folder = tiny.parent / "out"
    template = f"tokenizer.chat_template=str:@{tiny.parent / 'chat.jinja'}"
    words = ["requantize", tiny, folder / "a.gguf", "Q8_0", "--ollama", "--override-kv", template]
    planned = run(*words, "--dry-run", "--json")
    assert [file["name"] for file in json.loads(planned.stdout)["files"]] == ["a.gguf", "Modelfile"]
    assert not folder.exists()
    done = run(*words, "--json")
    assert [file["name"] for file in json.loads(done.stdout)["files"]] == ["a.gguf", "Modelfile"], done.output
    said = dict(commands((folder / "Modelfile").read_text()))
    assert said["from"] == "./a.gguf"
    assert executed(said["template"], TALK[:1]) == "<|user|>\nWhat is 2 + 2?</s>\n<|assistant|>\n"
    # its own is replaced with it, that of another stays
    assert run(*words).exit_code == PlanError.exit_code
    assert f"{folder / 'a.gguf'}, Modelfile: " in run(*words, "--force").output
    other = run("convert", tiny, folder / "b.gguf", "--to", "F16", "--ollama")
    assert other.exit_code == 0
    assert "no TEMPLATE: the model has no chat template" in other.output
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "a.gguf", "b.Modelfile", "b.gguf"]
    assert dict(commands((folder / "Modelfile").read_text()))["from"] == "./a.gguf"
    # a file that somebody wrote is never replaced without being asked
    (folder / "b.gguf").unlink()
    (folder / "b.Modelfile").write_text("mine")
    assert run("convert", tiny, folder / "b.gguf", "--to", "F16", "--ollama").exit_code == PlanError.exit_code
    assert (folder / "b.Modelfile").read_text() == "mine" and not (folder / "b.gguf").exists()


def test_several_ggufs_have_a_modelfile_each(tiny):
    done = run("convert", tiny, tiny.parent / "m-{}.gguf", "--to", "F16,Q8_0", "--ollama")
    assert done.exit_code == 0, done.output
    for name in ("m-F16", "m-Q8_0"):
        assert dict(commands((tiny.parent / f"{name}.Modelfile").read_text()))["from"] == f"./{name}.gguf"


def test_a_folder_hands_on_how_it_likes_to_be_sampled(tmp_path):
    folder = write_tiny_folder(tmp_path / "hf")
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "top_p": 0.9, "top_k": 40}')
    (folder / "chat_template.jinja").write_text(TEMPLATES["vicuna"])
    done = run("convert", folder, tmp_path / "a.gguf", "--to", "F16", "--ollama")
    assert done.exit_code == 0, done.output
    said = dict(commands((tmp_path / "Modelfile").read_text()))
    assert [said.get(name) for name in ("temperature", "top_p", "top_k")] == ["0.7", "0.9", "40"]
    assert said["system"] == "A chat between a user and an assistant."


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["out", "--to", "F16"], "becomes a GGUF"),
        (["out.gguf", "--to", "F16", "--mmproj"], "text model"),
        (["out.gguf", "--to", "F16", "--max-shard-tensors", "5"], "several files"),
    ],
)
def test_what_ollama_does_not_take_is_refused(tiny, words, reason):
    done = run("convert", tiny, tiny.parent / words[0], *words[1:], "--ollama")
    assert done.exit_code == PlanError.exit_code and reason in done.output


def test_jinja2_is_asked_for(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("convert", tiny, tiny.parent / "a.gguf", "--to", "F16", "--ollama")
    assert done.exit_code == PlanError.exit_code and 'pip install "requant[html]"' in done.output


@pytest.mark.slow
def test_a_real_model_has_its_texts(tmp_path):
    assert run("requantize", smollm2(), tmp_path / "a.gguf", "Q8_0", "--ollama", "--quiet").exit_code == 0
    said = commands((tmp_path / "Modelfile").read_text())
    assert [value for name, value in said if name == "stop"] == ["<|im_end|>", "<|im_start|>"]
    assert dict(said)["system"] == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
