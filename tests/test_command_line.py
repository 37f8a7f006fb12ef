"""The command line as a user meets it: what it imports, what it says, how it ends."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.recipes import RECIPES
from requant.schemes import SCHEMES, scheme_named
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

#: What a command that computes nothing has no use for, and what takes long to import.
HEAVY = ["numba", "torch", "transformers", "tqdm", "safetensors", "huggingface_hub", "requant.kernels_cpu"]


def requant(*words, **options):
    """The finished process; a traceback is never an answer."""
    process = subprocess.run(
        [sys.executable, "-m", "requant", *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder and a GGUF."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_folder(folder / "hf")
    write_tiny_llama(folder / "tiny.gguf")
    (folder / "taken.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    for name, missing in {"integers": "", "bare": "config.json", "mute": "tokenizer.json"}.items():
        shutil.copytree(folder / "hf", folder / name, ignore=shutil.ignore_patterns(missing))
    shutil.copytree(folder / "bare", folder / "adapter")
    (folder / "adapter/model.safetensors").rename(folder / "adapter/adapter_model.safetensors")
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    tensors = load_file(folder / "hf/model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int32)
    save_file(tensors, folder / "integers/model.safetensors")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "convert --help",
        "requantize --help",
        "inspect tiny.gguf --tensors . --metadata",
        "inspect hf --json",
        "convert hf out.gguf --to Q4_K_M --dry-run",
        "convert tiny.gguf out --dry-run --json",
        "requantize tiny.gguf out.gguf Q4_K_M --dry-run",
        "types",
    ],
)
def test_what_computes_nothing_imports_nothing_heavy(models, words):
    program = (
        "import os, runpy, sys\n"
        "os._exit = sys.exit\n"
        "try:\n    runpy.run_module('requant', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *words.split()]
    process = subprocess.run(command, capture_output=True, text=True, cwd=models, timeout=60)
    assert (process.returncode, process.stderr) == (0, "[]\n")


def test_the_help_lists_every_command_there_is():
    from requant.cli.main import COMMANDS, cli

    said = requant("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name}" in said
        assert cli.get_command(None, name).name == name


def test_the_help_of_convert_lists_every_recipe():
    said = requant("convert", "--help").stdout
    assert set(RECIPES) <= set(said.split())
    for name, family in SCHEMES.items():
        assert family.forms
        for form, meaning in family.forms.items():
            assert form.split("-")[0] == name
            assert meaning
            assert scheme_named(form) is not None
            assert form in said.split()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["convert", "hf", "a" * 300 + ".gguf"], 1, "File name too long"),
        (["convert", "hf", "taken.gguf", "--force"], 4, "taken.gguf is a folder and cannot be replaced"),
        (["convert", "hf", "pipe.gguf", "--force"], 4, "pipe.gguf is no regular file and cannot be replaced"),
        (["convert", "hf", "out.gguf", "--to", ""], 4, "there is no quantization type ''"),
        (["convert", "hf", "out.gguf", "--to", "gptq-4-32"], 4, "no GGUF can be gptq-4-32"),
        (["convert", "hf", "out", "--to", "Q4_K_M"], 4, "a Hugging Face folder cannot be Q4_K_M"),
        (["convert", "hf", "out", "--to", "FOO"], 4, "hint: --to F16, BF16, F32, GPTQ, AWQ"),
        (["convert", "hf", "out.gguf", "--replace-nan", "nan"], 2, "nan is not a number from -65504 to 65504"),
        (["convert", "hf", "out.gguf", "--replace-nan", "1e30"], 2, "is not a number"),
        (["convert", "hf", "out.gguf", "--threads", "100000"], 2, "100000 is not in the range"),
        (["convert", "hf", "out.gguf", "--tensor-type-file", "/dev/zero"], 2, "/dev/zero: this is no regular file"),
        (["convert", "hf", "out", "--to", "BF16", "--tensor-type", "q=F32"], 4, "the destination is none"),
        (["convert", "hf", "out.gguf", "--tensor-type", "atn_v=F32", "--fail-on-loss"], 4, "no tensor has such a name"),
        (["requantize", "tiny.gguf", "out.gguf", "F16", "--tensor-type", "atn=F32", "--fail-on-loss"], 4, "no tensor"),
        (["convert", "https://x.org/a/b.gguf", "out.gguf"], 4, "https://x.org/a/b.gguf: no address of a model"),
        (["convert", "hf/model.safetensors", "out.gguf"], 3, "convert the folder"),
        (["types", "--tensor", "hf:model.norm"], 4, "there is no tensor 'model.norm'"),
        (["types", "--tensor", "model.norm"], 4, "'model.norm' should be PATH:NAME"),
        (["convert", "adapter", "out.gguf"], 4, "--base MODEL"),
        (["convert", "bare", "out.gguf"], 3, "fetch config.json into the folder"),
        (["convert", "mute", "out.gguf"], 4, "--no-vocab"),
        (["convert", "integers", "out.gguf"], 4, "'model.norm.weight' is I32, which cannot become F32"),
    ],
)
def test_what_cannot_be_done_is_said(models, words, code, said):
    process = requant(*words, cwd=models)
    assert process.returncode == code and said in process.stderr, process.stderr
    assert not [path.name for path in models.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize("source", ["hf", "tiny.gguf"])
def test_what_a_file_of_tensors_has_no_place_for_is_told(models, source, tmp_path):
    words = ("convert", source, tmp_path / "out.safetensors")
    said = requant(*words, "--dry-run", cwd=models).stdout
    assert "config.json: a file by itself holds tensors only" in said
    assert requant(*words, "--fail-on-loss", cwd=models).returncode == 4
    assert requant("convert", source, tmp_path / "out", "--fail-on-loss", cwd=models).returncode == 0


def test_what_is_replaced_leaves_nothing_that_readers_would_take_for_the_new(models, tmp_path):
    """Another model's words, template or quantization beside the new weights would be used, and nobody would know."""
    folder = shutil.copytree(models / "hf", tmp_path / "there")
    left = {"added_tokens.json": "{}", "chat_template.jinja": "x", "quantize_config.json": "{}", "notes.txt": "mine"}
    for name, text in {**left, "additional_chat_templates/rag.jinja": "x"}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    gone = "added_tokens.json, additional_chat_templates/rag.jinja, chat_template.jinja, quantize_config.json"
    assert f"removes {gone}" in requant("convert", "hf", folder, "--force", "--dry-run", cwd=models).stdout
    assert f"removed {gone}" in requant("convert", "hf", folder, "--force", cwd=models).stdout
    ours = {path.name for path in (models / "hf").iterdir()}
    assert {path.name for path in folder.iterdir()} == {*ours, "notes.txt", "additional_chat_templates"}


def test_a_full_standard_output_is_an_error(models):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        command = [sys.executable, "-m", "requant", "inspect", "tiny.gguf"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=models, timeout=60)
    assert process.returncode == 1
    assert process.stderr == "error: No space left on device\n"


def test_standard_streams_may_be_closed(models, tmp_path):
    """As a daemon may leave them; files that are opened must not take their places."""
    command = f"{sys.executable} -m requant convert hf {tmp_path}/out.gguf --to F16 <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=models, timeout=120).returncode == 0
    assert requant("inspect", tmp_path / "out.gguf", cwd=models).returncode == 0


def test_numbers_that_json_lacks_are_strings(models, tmp_path):
    folder = shutil.copytree(models / "hf", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "time_step_limit": [0.0, float("inf")]}))

    def refuse(word):
        raise AssertionError(word)

    said = json.loads(requant("inspect", folder, "--json", "--metadata").stdout, parse_constant=refuse)
    assert said["config"]["time_step_limit"] == [0.0, "inf"]
