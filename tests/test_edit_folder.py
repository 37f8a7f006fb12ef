"""`requant edit` of safetensors files and folders: other readers find what was asked for, and the rest stays."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from requant.cli.main import cli
from requant.formats.gguf import Gguf
from tests.faults.model import digests
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama


def edit(*words, code=0):
    told = CliRunner().invoke(cli, ["edit", *map(str, words)])
    assert isinstance(told.exception, SystemExit | None), told.exception
    assert told.exit_code == code, told.output
    return told.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


def texts(path):
    with safe_open(path, "np") as file:
        return file.metadata() or {}


def test_metadata_of_a_file(folder):
    path = folder / "model.safetensors"
    tensors = {name: bytes(value) for name, value in load_raw(path).items()}
    edit(path, "--reserve", "1000")
    inode = path.stat().st_ino
    said = json.loads(edit(path, "--set", "author=a “name”", "--set", "x=str:y", "--rename", "format=kind", "--json"))
    assert said["way"] == "in_place" and path.stat().st_ino == inode
    assert texts(path) == {"kind": "pt", "author": "a “name”", "x": "y"}
    said = json.loads(edit(path, "--delete", "author", "--delete", "x", "--set", f"long={'x' * 9000}", "--json"))
    assert said["way"] in ("copy", "insert", "share") and texts(path) == {"kind": "pt", "long": "x" * 9000}
    assert {name: bytes(value) for name, value in load_raw(path).items()} == tensors
    assert "nothing to change" in edit(path, "--set", "kind=pt")


def load_raw(path):
    return {name: value.view(-1).view(torch.uint8).numpy() for name, value in load_torch(path).items()}


def test_a_file_without_metadata_and_without_room(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32)}, path)
    edit(path, "--set", "k=v", "-o", tmp_path / "b.safetensors")
    assert texts(path) == {} and texts(tmp_path / "b.safetensors") == {"k": "v"}
    edit(path, "--set", "k=v")
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (load_file(path)["a"] == np.arange(6)).all()


def test_values_of_json_files(folder):
    (folder / "generation_config.json").write_text('{"temperature": 1.0}')
    weights = digests(folder)["model.safetensors"]
    edit(
        folder,
        *("--set", "config.rope_theta=1000000", "--set", "config.max_position_embeddings=1024"),
        *("--set", "config.note=str:5", "--set", 'config.list=["a"]', "--set", "config.inner.key=true"),
        *(
            "--set",
            "generation_config.temperature=0.5",
            "--delete",
            "config.hidden_act",
            "--rename",
            "config.rms_norm_eps=config.eps",
        ),
    )
    config = json.loads((folder / "config.json").read_text())
    assert (config["rope_theta"], config["max_position_embeddings"], config["note"]) == (1000000, 1024, "5")
    assert config["list"] == ["a"] and config["inner"] == {"key": True} and config["eps"] == 1e-5
    assert "hidden_act" not in config and "rms_norm_eps" not in config
    assert GenerationConfig.from_pretrained(folder).temperature == 0.5
    assert digests(folder)["model.safetensors"] == weights and not list(folder.parent.glob("*.partial"))
    edit(folder, "--rename", "config.eps=config.rms_norm_eps")
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == 1024


def test_null_is_a_value(folder):
    edit(folder, "--set", "config.nothing=null")
    assert json.loads((folder / "config.json").read_text())["nothing"] is None
    edit(folder, "--delete", "config.nothing")
    assert "nothing" not in json.loads((folder / "config.json").read_text())


def test_tokens_and_template(folder):
    (folder / "t.jinja").write_text("{{ messages[0].content }}!")
    edit(folder, "--template", folder / "t.jinja", "--pad", "<s>", "--eos", "</s>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.eos_token) == ("<s>", 0, "</s>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert AutoConfig.from_pretrained(folder).pad_token_id == 0
    assert "no token is 'nothing'" in edit(folder, "--pad", "nothing", code=4)


def test_rope_scaling_and_back(folder):
    before = json.loads((folder / "config.json").read_text())
    for words in ("yarn:4", "linear:2"):
        edit(folder, "--rope-scaling", words)
        config = AutoConfig.from_pretrained(folder)
        kind, factor = words.split(":")
        scaling = getattr(config, "rope_parameters", None) or config.rope_scaling
        assert (scaling["rope_type"], scaling["factor"]) == (kind, float(factor))
        assert config.max_position_embeddings == 512 * int(factor)
        edit(folder, "--rope-scaling", "none")
        after = json.loads((folder / "config.json").read_text())
        assert after.pop("rope_scaling") is None and after == before


def test_a_tokenizer_of_another_model(folder, tmp_path):
    gguf = write_tiny_llama(tmp_path / "t.gguf")
    assert "has 320 tokens, the embedding" in edit(folder, "--tokenizer-from", gguf, code=4)
    other = write_tiny_folder(tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ 1 }}")
    (folder / "added_tokens.json").write_text("{}")
    said = json.loads(edit(folder, "--tokenizer-from", other, "--json"))
    assert said["removed"] == ["added_tokens.json"] and not (folder / "added_tokens.json").exists()
    assert (folder / "chat_template.jinja").read_text() == "{{ 1 }}"


def test_a_gguf_gets_the_tokenizer_of_a_folder(folder, tmp_path):
    told = CliRunner().invoke(cli, ["convert", str(folder), str(tmp_path / "m.gguf"), "--to", "Q8_0", "--no-vocab"])
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(cli, ["convert", str(folder), str(tmp_path / "whole.gguf"), "--to", "Q8_0"])
    edit(tmp_path / "m.gguf", "--tokenizer-from", folder)
    ours, theirs = (Gguf().read(tmp_path / name).metadata for name in ("m.gguf", "whole.gguf"))
    assert {k: v for k, v in ours.items() if k.startswith("tokenizer.")} == {
        k: v for k, v in theirs.items() if k.startswith("tokenizer.")
    }


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--set", "rope_theta=5"], 4, "should begin with its file"),
        (["--set", "config.rope_theta=many"], 4, "is no JSON"),
        (["--set", "config.vocab_size=str:x"], 2, ""),
        (["--set", "config.num_attention_heads=8"], 4, "the configuration says"),
        (["--set", "config.num_hidden_layers=3"], 4, "is missing"),
        (["--delete", "config.hidden_sizes"], 4, "did you mean hidden_size?"),
        (["--delete", "processor_config.a"], 4, "there is no such file"),
        (["--rename", "config.hidden_size=config.vocab_size"], 4, "there is a key"),
        (["--rename-tensor", "a=b"], 2, "are for GGUF files"),
        (["--eot", "1"], 2, "transformers has no such token"),
        (["--reserve", "5"], 2, "are for files"),
    ],
)
def test_what_cannot_be_is_refused(words, code, why, folder):
    before = digests(folder)
    told = CliRunner().invoke(cli, ["edit", str(folder), *words])
    assert told.exit_code in (code, 4) and why in told.output, told.output
    assert digests(folder) == before


def test_links_of_the_cache_are_left_alone(folder, tmp_path):
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    before = (tmp_path / "blob").read_bytes()
    assert "is a link to" in edit(folder, "--set", "config.rope_theta=5", code=4)
    assert (tmp_path / "blob").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--delete", "config.model_type"], "'model_type' is missing"),
        (["--set", "config.model_type=json:5"], "'model_type' is missing, or no text"),
        (["--delete", "config.rope_theta", "--set", "config.rope_theta=5"], "is deleted, and set besides"),
        (["--delete", "config.eos_token_id", "--eos", "</s>"], "is deleted, and set besides"),
    ],
)
def test_what_contradicts_itself_is_refused(words, said, folder):
    before = digests(folder)
    assert said in edit(folder, *words, code=4)
    assert digests(folder) == before


def test_a_text_that_is_deleted_and_set(folder):
    path = folder / "model.safetensors"
    assert "is deleted, and set besides" in edit(path, "--delete", "format", "--set", "format=x", code=4)
