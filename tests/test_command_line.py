"""The command line as a user meets it: what it imports, what it says, how it ends."""

import json
import os
import re
import shutil
import subprocess
import sys

import click
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.cli.main import COMMANDS, cli
from requant.recipes import RECIPES
from requant.schemes import SCHEMES, scheme_named
from tests.models import llama_cpp_sources
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

#: What a command that computes nothing has no use for, and what takes long to import.
HEAVY = ["numba", "torch", "transformers", "gguf", "tqdm", "safetensors", "huggingface_hub", "requant.kernels_cpu"]


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
        assert cli.get_command(click.Context(cli), name).name == name


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
        (["convert", "ftp://x.org/a/b.gguf", "out.gguf"], 4, "ftp://x.org/a/b.gguf: no address of a model"),
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


def test_help_waits_for_no_numbers():
    """numpy, and whatever imports it, takes longer than all of help."""
    program = "import sys\nfrom click.testing import CliRunner\nfrom requant.cli.main import COMMANDS, cli\n"
    program += "for name in [*COMMANDS, '']:\n"
    program += "    told = CliRunner().invoke(cli, [*filter(None, [name]), '--help'])\n"
    program += "    assert told.exit_code == 0 and 'Usage' in told.output\n"
    program += "    print(name, [heavy for heavy in ('numpy', 'numba', 'gguf') if heavy in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in [*COMMANDS, ""]]


def test_a_header_is_looked_at_without_numbers(models):
    """numpy takes as long to import as all else that `inspect` does with the header of a GGUF."""
    program = "import sys\nfrom click.testing import CliRunner\nfrom requant.cli.main import cli\n"
    program += "told = CliRunner().invoke(cli, ['inspect', 'tiny.gguf', '--tensors', '.'])\n"
    program += "assert told.exit_code == 0 and 'blk.0.attn_q.weight' in told.output\n"
    program += "print([heavy for heavy in ('numpy', 'requant.formats.safetensors') if heavy in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=models)
    assert done.stdout == "[]\n"


def complete(*words, shell="bash"):
    """What a shell is told when the last of these words is to be completed."""
    variables = {"_REQUANT_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(("requant", *words))}
    variables |= {"COMP_CWORD": str(len(words)) if shell != "fish" else words[-1]}
    program = "import sys; sys.argv[0] = 'requant'; from requant.cli.start import main; main()"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | variables)
    assert told.stderr == "", told.stderr
    return told.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["con"], {"plain,convert"}),
        (["convert", "x", "y", "--to", "q4_k"], {"plain,Q4_K_S", "plain,Q4_K_M"}),
        (["convert", "x", "y", "--to", "NF4-"], {"plain,NF4-DQ", "plain,NF4-128"}),
        (["convert", "x", "y", "--dry"], {"plain,--dry-run"}),
        (["convert", "x", "y", "--output-tensor-type", "Q6"], {"plain,Q6_K"}),
        (["requantize", "x", "IQ4"], {"plain,IQ4_NL", "plain,IQ4_XS"}),
        (["requantize", "x", "out"], {"file,out"}),
        (["inspect", "mod"], {"file,mod"}),
        (["families", "qwen3vlmoe"], {"plain,qwen3vlmoe", "plain,Qwen3VLMoeForConditionalGeneration"}),
        (["completion", "b"], {"plain,bash"}),
    ],
)
def test_a_shell_is_told_how_a_word_may_go_on(words, told):
    assert set(complete(*words)) == told


def test_what_zsh_and_fish_are_told_has_notes():
    assert complete("convert", "x", "--to", "Q4_K_M", shell="zsh")[:2] == ["plain", "Q4_K_M"]
    assert any("perplexity +0.1754" in line for line in complete("convert", "x", "--to", "Q4_K_M", shell="zsh"))
    assert complete("convert", "x", "--to", "Q4_K_M", shell="fish") != []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path):
    program = tmp_path / "requant"
    inside = "import sys; sys.argv[0] = 'requant'; from requant.cli.start import main; main()"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{inside}" "$@"\n')
    program.chmod(0o755)
    script = """eval "$(requant completion bash)"
COMP_WORDS=(requant convert model out --to Q5_K); COMP_CWORD=5; COMPREPLY=()
_requant_completion requant Q5_K --to
printf '%s\\n' "${COMPREPLY[@]}"
complete -p requant"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.stdout.splitlines()[:2] == ["Q5_K_S", "Q5_K_M"], done
    assert "_requant_completion" in done.stdout.splitlines()[2]


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_scripts_for_shells_are_scripts(shell, check, tmp_path):
    script = requant("completion", shell).stdout
    assert "_REQUANT_COMPLETE" in script and "requant" in script
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(script)
        assert subprocess.run([shell, check, str(tmp_path / "script")], capture_output=True).returncode == 0


def test_versions_are_those_that_matter():
    from importlib.metadata import version

    lines = requant("--version").stdout.splitlines()
    assert lines[0] == f"requant {version('requant')}" and f"numpy {version('numpy')}" in lines[1]
    assert f"gguf {version('gguf')}" in lines[1] and f"torch {version('torch')}" in lines[2]


def test_a_name_that_is_no_file_is_answered_with_those_like_it(tmp_path):
    (tmp_path / "imatrix.gguf").write_bytes(b"")
    for words in (["inspect", "imatrx.gguf"], ["requantize", "imatrix-gguf", "Q8_0"], ["hash", "Imatrix.ggf"]):
        assert "did you mean imatrix.gguf?" in requant(*words, cwd=tmp_path).stderr
    told = requant("convert", "a", "b", "--imatrix", "imatrix.ggu", cwd=tmp_path).stderr
    assert "does not exist. Did you mean imatrix.gguf?" in told
    assert "did you mean qwen3?" in requant("families", "qwen-3").stderr


def test_recipes_carry_the_figures_of_llama_cpp():
    from requant.recipes.notes import NOTES

    source = llama_cpp_sources() / "tools" / "quantize"
    option = re.compile(r'"(\w+)",\s*LLAMA_FTYPE\w+,\s*" *[\d.]+G, ([+-][\d.]+) ppl @ Llama-3-8B"')
    rises = dict(option.findall((source / "quantize.cpp").read_text()))
    assert {name: f"{note.perplexity:+.4f}" for name, note in NOTES.items() if note.perplexity is not None} == rises
    bits, names = {}, []
    for line in (source / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells[:1] == ["Measure"]:
            names = cells[1:]
        elif cells[:1] == ["bits/weight"]:
            bits |= zip(names, map(float, cells[1:]), strict=True)
    assert {name: note.bits for name, note in NOTES.items() if note.measured} == bits
    told = json.loads(requant("types", "--json").stdout)["recipes"]
    assert {row["recipe"] for row in told} == RECIPES.keys() - {"COPY"}


def test_no_option_takes_nan():
    """Whatever is compared with it is false: a limit that nothing exceeds, a range that it is in."""
    found = []
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        for option in command.params:
            if isinstance(option.type, click.types.FloatParamType):
                found.append(option.name)
                with pytest.raises(click.BadParameter):
                    option.process_value(click.Context(command), "nan")
    assert {"bandwidth", "max_kl", "target_bpw", "replace_nan"} <= set(found)
