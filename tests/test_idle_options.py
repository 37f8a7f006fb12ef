"""An option, filter or regular expression that hits nothing is an error or a loss, whatever command takes it."""

import json
import shutil

import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from tests.tiny_folder import write_tiny_folder


def run(*words):
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder, its GGUF, and another folder of the same family; outputs are tied."""
    root = tmp_path_factory.mktemp("idle")
    write_tiny_folder(root / "tiny")
    write_tiny_folder(root / "two", seed=1)
    assert run("convert", root / "tiny", root / "tiny.gguf", "--to", "F16", "-q").exit_code == 0
    return root


ERRORS = [
    ("convert tiny o.gguf --to Q4_0 --include-weights attn", "go with --imatrix"),
    ("requantize tiny.gguf o.gguf Q4_0 --exclude-weights attn", "go with --imatrix"),
    ("convert tiny o.gguf --to Q4_0 --tensors", "--tensors goes with --dry-run"),
    ("convert tiny o --to GPTQ --no-vocab", "--no-vocab leaves the tokenizer out of a GGUF"),
    ("convert tiny o --no-vocab", "--no-vocab leaves the tokenizer out of a GGUF"),
    ("convert tiny.gguf o.gguf --to Q8_0 --no-vocab", "--no-vocab leaves the tokenizer out of a GGUF"),
    ("convert tiny o --to FP8 --output-tensor-type Q8_0", "choose the types of a GGUF's tensors"),
    ("convert tiny o --to GPTQ --output-tensor-type Q8_0", "no other departure is known"),
    ("convert tiny o --to BF16 --pure", "choose the types of a GGUF's tensors"),
    ("convert tiny o --to BF16 --override-kv a.b=int:1", "--override-kv sets metadata of a GGUF"),
    ("convert tiny o --to BF16 --like tiny.gguf", "--like copies the types of a GGUF's tensors"),
    ("convert tiny o.gguf --gptq-format gptq", "--gptq-format gptq says nothing"),
    ("convert tiny o.gguf --base two", "--base is the model of an adapter"),
    ("convert tiny o.gguf --mmproj", "neither sees nor hears"),
    ("requantize tiny.gguf o.gguf Q4_0 --prune-layers 2", "there is no layer 2"),
    ("requantize tiny.gguf o.gguf Q4_0 --types Q4_0", "go with --target-size"),
    ("merge tiny -o o --keep-layers 7", "--keep-layers: there is no layer 7"),
    ("merge tiny -o o --drop-layers 7", "--drop-layers: there is no layer 7"),
    ("merge tiny -o o --drop-layers 1 --mapping first", "--mapping goes with --student"),
    ("merge tiny two -o o --method linear --weight 1 --mapping first", "--mapping goes with --student"),
    ("merge tiny -o o --drop-layers 1 --weight 3", "--weight says nothing"),
    ("merge tiny -o o --drop-layers 1 --t 0.5", "--t says nothing"),
    ("merge tiny -o o --keep-layers 1 --param epsilon=1", "--param says nothing"),
    ("merge tiny -o o --keep-layers 1 --tokenizer union", "--tokenizer says nothing"),
    ("merge tiny -o o --student 1 --base two", "--base says nothing"),
    ("merge tiny two -o o --drop-layers 0", "take one model"),
    ("merge tiny two -o o --method slerp --t 0.5 --weight 1", "--weight says nothing to slerp, which takes t"),
    ("merge tiny two -o o --method linear --weight 1 --t 1", "--t says nothing to linear"),
    ("merge tiny two -o o --method linear --weight 1 --density 1", "--density says nothing to linear"),
    ("merge tiny two -o o --method linear --weight 1 --param epsilon=1", "--param epsilon=1 says nothing to linear"),
    (
        "merge tiny two -o o --method task_arithmetic --weight 1 --density 1",
        "--density says nothing to task",
    ),
    ("merge tiny two -o o --method linear --weight 1 --seed 3", "--seed is of DARE and DELLA"),
    ("merge tiny two -o o --method linear --weight 1 --like tiny.gguf", "--like copies the types of a GGUF's tensors"),
    ("merge tiny two -o o --method linear --weight 1 --override-kv a.b=int:1", "--override-kv sets metadata of a GGUF"),
    ("merge tiny two -o o --method linear --weight 1 --ollama", "--ollama is for a text model that becomes a GGUF"),
    ("merge tiny two -o o --extract-lora --rank 2 --to BF16", "--to says nothing to --extract-lora"),
    ("merge tiny two -o o --extract-lora --rank 2 --method linear", "--method says nothing to --extract-lora"),
    ("merge tiny two -o o --extract-lora --rank 2 --seed 0", "--seed says nothing to --extract-lora"),
    ("convert tiny o --prune-layers 0", "--prune-layers leaves layers out of a GGUF"),
    ("convert tiny o.gguf --prune-layers 2", "there is no layer 2"),
    ("convert tiny o.gguf --prune-layers 0,1", "no layer would stay"),
    ("convert tiny o.gguf --prune-layers 0 --override-kv llama.block_count=int:1", "follows from the layers"),
    ("convert tiny.gguf o.gguf --prune-layers 2", "there is no layer 2"),
    ("check tiny.gguf --prompt= --raw", "--raw goes with a --prompt"),
    ("check tiny.gguf --prompt= --predict 3", "--predict goes with a --prompt"),
    ("inspect tiny --csv --ctx 5", "--csv is the list of tensors alone"),
    ("inspect tiny --csv --bandwidth 5", "--csv is the list of tensors alone"),
    ("extract tiny o.json --config --replace-nan 0", "--replace-nan is of tensors"),
    ("merge tiny two -o o --method linear --weight 1 --no-vocab", "--no-vocab leaves the tokenizer out of a GGUF"),
    ("merge tiny two -o o --method linear --weight 1 --rank 4", "--extract-lora"),
    ("inspect tiny --tensors nothing", "no name of its 20 tensors contains a match"),
    ("inspect tiny --tokens nothing", "none of the 264 tokens contains a match"),
    ("inspect tiny --sort nothing", "there is no column 'nothing'"),
    ("inspect tiny --against two", "--against says nothing"),
    ("inspect tiny --csv --metadata", "--csv is the list of tensors alone"),
    ("inspect tiny --csv --template", "--csv is the list of tensors alone"),
    ("inspect tiny --csv --json", "do not go with it"),
    ("diff tiny two --only nothing", "no tensor has a name that 'nothing' matches"),
    ("validate tiny --rules", "--rules lists the rules"),
    ("validate --rules --values", "--rules lists the rules"),
    ("validate --rules --strict", "--rules lists the rules"),
    ("extract tiny o.npy --only nothing", "no name of its 20 tensors contains a match"),
    ("extract tiny o --tokenizer --only q_proj", "one thing at a time"),
    ("split tiny o --no-tensor-first-split", "--no-tensor-first-split is of GGUF files"),
    ("edit tiny.gguf --delete nothing", "there is no key 'nothing'"),
    ("edit tiny.gguf --rename nothing=other", "there is no key 'nothing'"),
    ("edit tiny.gguf --rename-tensor nothing=other", "there is no tensor 'nothing'"),
    ("edit tiny.gguf --set-from tiny.gguf --keys nothing.*", "no key is like 'nothing.*'"),
    ("edit tiny.gguf --keys general.* --set general.name=x", "--keys goes with --set-from"),
    ("edit tiny.gguf --eos nothing", "no token is 'nothing'"),
    ("edit tiny --rename-tensor a=b", "--rename-tensor and --keys are for GGUF files"),
    ("edit tiny --delete config.nothing", "there is no key 'config.nothing'"),
    ("types --tensor tiny:nothing", "there is no tensor 'nothing'"),
    ("families nothing", "no family has 'nothing' in its name"),
    ("check tiny.gguf --max-kl 0.1", "--max-kl goes with --against"),
    ("check tiny.gguf --min-cosine 0.9", "--min-cosine goes with --against"),
    ("check tiny.gguf --reference requant", "--reference goes with --against"),
    ("check tiny.gguf --prompt= --expect Paris", "--expect goes with a --prompt"),
    ("calibrate a.gguf b.gguf -o o.gguf --merge --tokens 5", "--merge adds up what was measured"),
    ("calibrate a.gguf b.gguf -o o.gguf --merge --gradients", "--merge adds up what was measured"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS)
def test_what_says_nothing_is_an_error(models, monkeypatch, line, message):
    monkeypatch.chdir(models)
    before = sorted(models.rglob("*"))
    said = run(*line.split())
    assert said.exit_code in (2, 4, 3) and message in " ".join(said.stderr.split()), said.stderr
    assert sorted(models.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("convert tiny o.gguf --to Q4_0 --tensor-type nothing=Q8_0", "--tensor-type nothing=Q8_0"),
        ("convert tiny o --to MLX --tensor-type nothing=MLX-8", "--tensor-type nothing=MLX-8b-g64-F16"),
        ("requantize tiny.gguf o.gguf Q4_0 --tensor-type nothing=Q8_0", "--tensor-type nothing=Q8_0"),
        ("merge tiny two -o o.gguf --method linear --weight 1 --tensor-type zz=Q8_0", "--tensor-type zz=Q8_0"),
        ("convert tiny o.gguf --to F16 --output-tensor-type Q8_0", "--output-tensor-type"),
        ("convert tiny o.gguf --to Q4_0 --pure --output-tensor-type Q8_0", "--output-tensor-type"),
        (
            "requantize tiny.gguf o.gguf Q4_0 --output-tensor-type Q8_0 --token-embedding-type Q8_0",
            "--output-tensor-type",
        ),
        ("requantize tiny.gguf o.gguf Q4_0 --leave-output-tensor", "--leave-output-tensor"),
    ],
)
def test_what_hits_no_tensor_is_a_loss(models, monkeypatch, line, option):
    monkeypatch.chdir(models)
    words = [*line.split(), "--dry-run"]
    losses = json.loads(run(*words, "--json").stdout)["losses"]
    assert [loss["subject"] for loss in losses if loss["subject"].startswith("--")] == [option]
    assert option in run(*words).stdout
    assert run(*words, "--fail-on-loss").exit_code == 4


def test_a_tied_embedding_stands_for_the_output(models, monkeypatch):
    monkeypatch.chdir(models)
    told = run(*["requantize", "tiny.gguf", "o.gguf", "Q4_0", "--output-tensor-type", "Q8_0", "--dry-run", "--json"])
    plan = json.loads(told.stdout)
    assert not [loss for loss in plan["losses"] if loss["subject"].startswith("--")]
    assert {step["to"]: step["to_type"] for step in plan["steps"]}["token_embd.weight"] == "Q8_0"


@pytest.mark.parametrize("more", ["--tensor-type q=Q8_0", "--no-vocab", "--mmproj", "--max-shard-tensors 3", "--pure"])
def test_options_of_models_are_refused_of_adapters(models, monkeypatch, tmp_path, more):
    shutil.copytree(models / "tiny", tmp_path / "adapter")
    (tmp_path / "adapter/model.safetensors").rename(tmp_path / "adapter/adapter_model.safetensors")
    (tmp_path / "adapter/config.json").unlink()
    (tmp_path / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    monkeypatch.chdir(tmp_path)
    said = run("convert", "adapter", "o.gguf", "--base", models / "tiny", "--to", "F16", *more.split())
    assert said.exit_code == 4 and "every other option is of a model" in said.stderr
