"""A pipeline's last plan: types for a size, and smoothing, as the commands have them one after another."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from tests.pipelines import write_all
from tests.test_json import run as printed
from tests.test_run import recipe, requant, same, types_of

MEASURED = {"gradients": True, "text": "long.txt", "tokens": 1024, "ctx": 64}
WORDS = ("--text", "long.txt", "--tokens", "1024", "--ctx", "64", "--gradients", "-q")


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = (f"The rain in Spain stays for {n} days, and then another thing. " for n in range(200))
    Path("long.txt").write_text("".join(lines))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_bpw": 6.5}, ("--target-bpw", "6.5")),
        ({"target_bpw": 6.5, "smooth": True}, ("--target-bpw", "6.5", "--smooth")),
        (
            {"target_kl": 0.02, "types": ["Q4_0", "Q8_0"], "min_type": {"attn_v": "Q8_0"}, "keep": ["ffn_up"]},
            ("--target-kl", "0.02", "--types", "Q4_0,Q8_0", "--min-type", "attn_v=Q8_0", "--keep", "ffn_up"),
        ),
        ({"smooth": 0.25}, ("--smooth", "0.25")),
    ],
    ids=["size", "smoothed", "divergence", "power"],
)
def test_types_are_those_of_the_commands(options, words, here):
    stages = [{"prune": {"sparsity": "2:4"}}, {"calibrate": MEASURED}, {"quantize": {"to": "Q4_K_M", **options}}]
    told, code = printed(here, "run", recipe(stages))
    assert code == 0, told
    requant("prune", "tiny", "pruned", "--sparsity", "2:4", "-q")
    requant("calibrate", "pruned", "-o", "stats.gguf", *WORDS)
    document, _ = printed(here, "convert", "pruned", "stepwise.gguf", "--to", "Q4_K_M", "--stats", "stats.gguf", *words)
    same("out.gguf", "stepwise.gguf")
    assert types_of("out.gguf") == types_of("stepwise.gguf")
    assert told.get("expected_kl") == document.get("expected_kl")
    assert ("expected_kl" in told) == any(name.startswith("target") for name in options)
    kept = json.loads(Path("out.gguf.receipt.json").read_text())
    assert kept.get("expected_kl") == told.get("expected_kl")
    before = Path("out.gguf").stat()
    requant("run", "r.yaml")
    assert Path("out.gguf").stat() == before


@pytest.mark.slow
def test_bits_of_a_folder_are_chosen(here):
    stages = [{"calibrate": MEASURED}, {"quantize": {"to": "MLX-4-32", "target_bpw": 6}}]
    requant("run", recipe(stages, output="./out"))
    requant("calibrate", "tiny", "-o", "stats.gguf", *WORDS)
    requant("convert", "tiny", "stepwise", "--to", "MLX-4-32", "--stats", "stats.gguf", "--target-bpw", "6", "-q")
    same("out", "stepwise")
    assert len(set(types_of("out").values())) > 2


def test_what_is_yet_to_be_measured_chooses_nothing(here):
    sized = {"to": "Q4_K_M", "target_size": "100kB", "smooth": True}
    stages = [{"calibrate": MEASURED}, {"quantize": sized}]
    told = requant("run", recipe(stages), "--dry-run")
    assert "types will be chosen by what is yet to be measured; these are those of Q4_K_M" in told


@pytest.mark.slow
def test_without_gradients_it_is_told(here):
    plain = {name: value for name, value in MEASURED.items() if name != "gradients"}
    stages = [{"calibrate": plain}, {"quantize": {"to": "Q4_K_M", "target_bpw": 6.5}}]
    requant("run", recipe(stages))
    assert "with `calibrate: {gradients: true}` types are chosen better" in requant("run", "r.yaml", "--dry-run")
    assert "expected_kl" not in json.loads(Path("out.gguf.receipt.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("target_bpw: 4", "a target needs statistics"),
        ("smooth: true", "smooth needs statistics"),
        ("smooth: 2", "a power from 0 to 1"),
        ("smooth: much", "a power from 0 to 1"),
        ("target_bpw: 4, target_kl: 1", "target_bpw and target_kl contradict each other"),
        ("target_size: large", "a size such as"),
        ("target_size: [1]", "a size such as"),
        ("target_bpw: -1", "a number of at least 0"),
        ("target_kl: .inf", "a number of at least 0"),
        ("target_bpw: 4, types: [F16]", "F16 is no type of blocks"),
        ("target_bpw: 4, types: Q4_0", "a list"),
        ("types: [Q4_0]", "types goes with target_size"),
        ("target_bpw: 4, min_type: {attn_v: Q9}", "Q9"),
        ("target_bpw: 4, weighing: false", "which weighing: false leaves out"),
    ],
)
def test_what_is_wrong_is_told(options, message, here):
    Path("wrong.yaml").write_text(f"{{model: ./tiny, stages: [quantize: {{to: Q4_K_M, {options}}}], output: out.gguf}}")
    result = CliRunner().invoke(cli, ["run", "wrong.yaml"], catch_exceptions=False)
    assert result.exit_code == 4 and message in result.output, result.output
    assert not Path("out.gguf").exists()


def test_gradient_tokens_need_gradients(here):
    Path("wrong.yaml").write_text(
        "{model: ./tiny, stages: [{calibrate: {gradient_tokens: 64}}, quantize: Q8_0], output: out.gguf}"
    )
    result = CliRunner().invoke(cli, ["run", "wrong.yaml"], catch_exceptions=False)
    assert result.exit_code == 4 and "gradient_tokens goes with gradients" in result.output
