"""Where a conversion goes that is given no destination."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from requant.cli.destinations import named_by, stem_of
from requant.cli.main import cli
from tests.tiny_folder import write_tiny_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_folder(tmp_path / "Tiny-0.9M")
    return tmp_path


def run(*words):
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("--to q4_0", ["Tiny-0.9M-Q4_0.gguf"]),
        ("--to Q4_K", ["Tiny-0.9M-Q4_K_M.gguf"]),
        ("--to 7", ["Tiny-0.9M-Q8_0.gguf"]),
        ("--to gptq-4-32", ["Tiny-0.9M-GPTQ-4-32"]),
        ("--to F16 --format gguf", ["Tiny-0.9M-F16.gguf"]),
        ("--to F16 --format safetensors", ["Tiny-0.9M-F16"]),
        ("--to Q4_0,Q8_0", ["Tiny-0.9M-Q4_0.gguf", "Tiny-0.9M-Q8_0.gguf"]),
        ("--to GPTQ-4-32,MLX", ["Tiny-0.9M-GPTQ-4-32", "Tiny-0.9M-MLX"]),
    ],
)
def test_source_and_recipe_make_a_name_in_the_current_folder(here, words, made):
    said = run("convert", "./Tiny-0.9M/", *words.split())
    assert said.exit_code == 0, said.stderr
    assert sorted(path.name for path in here.iterdir()) == sorted(["Tiny-0.9M", *made])
    assert f"no DESTINATION is given: {', '.join(made)}" in said.stderr
    again = run("convert", "Tiny-0.9M", *words.split())
    assert again.exit_code == 4 and f"{made[0]} exists" in again.stderr
    assert run("convert", "Tiny-0.9M", *words.split(), "--force", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "neither DESTINATION nor --to says what is made"),
        ("--format gguf", "neither DESTINATION nor --to says what is made"),
        ("--to BF16", "BF16 is of a GGUF and of a folder"),
        ("--to 1", "F16 is of a GGUF and of a folder"),
        ("--to NVFP4", "NVFP4 is of a GGUF and of a folder"),
        ("--to COPY", "COPY is of a GGUF and of a folder"),
        ("--to Q4_0,AWQ", "of Q4_0, AWQ, some are of a GGUF and some of a folder"),
        ("--to Q9_0", "no quantization type 'Q9_0'"),
        ("--to GPTQ-5", "GPTQ-5 is not understood"),
    ],
)
def test_what_no_recipe_tells_is_an_error(here, words, message):
    said = run("convert", "Tiny-0.9M", *words.split())
    assert said.exit_code == 4 and message in said.stderr
    assert [path.name for path in here.iterdir()] == ["Tiny-0.9M"]


def test_a_dry_run_writes_nothing_and_names_the_file(here):
    said = run("convert", "Tiny-0.9M", "--to", "Q4_0", "--dry-run", "--json")
    assert [file["name"] for file in json.loads(said.stdout)["files"]] == ["Tiny-0.9M-Q4_0.gguf"]
    assert [path.name for path in here.iterdir()] == ["Tiny-0.9M"]


def test_the_current_folder_has_its_own_name(here, monkeypatch):
    monkeypatch.chdir("Tiny-0.9M")
    assert named_by(".", ("Q4_0",), None, projector=False) == Path("Tiny-0.9M-Q4_0.gguf")
    (here / "Tiny-0.9M" / "sub").mkdir()
    monkeypatch.chdir("sub")
    assert stem_of("..") == "Tiny-0.9M"


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("owner/Model-1.5B", "Model-1.5B"),
        ("owner/Model-1.5B@v1", "Model-1.5B"),
        ("owner/Model-GGUF:Q8_0", "Model"),
        ("owner/Model-GGUF/Model-1.5B-Q8_0.gguf", "Model-1.5B"),
        ("https://huggingface.co/owner/Model/tree/main", "Model"),
        ("some/deep/path/Model-00001-of-00004.gguf", "Model"),
        ("/models/Model.f16.gguf", "Model"),
        ("/models/F16.gguf", "F16"),
        ("/models/F16", "F16"),
        ("/", "model"),
    ],
)
def test_a_name_leaves_out_how_the_source_is_stored(here, source, stem):
    assert stem_of(source) == stem


def test_a_projector_is_called_as_llama_cpp_calls_it():
    assert named_by("owner/Gemma", ("Q8_0",), None, projector=True) == Path("mmproj-Gemma-Q8_0.gguf")
    assert named_by("owner/Gemma", ("F16",), None, projector=True) == Path("mmproj-Gemma-F16.gguf")


def test_a_name_with_odd_characters_is_told_as_text(here):
    Path("Tiny-0.9M").rename("odd\x1b[31m")
    said = run("convert", "odd\x1b[31m", "--to", "Q4_0")
    assert said.exit_code == 0 and "\x1b" not in said.stderr + said.stdout
