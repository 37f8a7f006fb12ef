"""Students: what they begin with, and the page's distillation as it stands."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from requant import formats
from requant.cli import student as command
from requant.cli.main import cli
from requant.merging.layers import MAPPINGS, student_layers
from requant.merging.model import model_of
from requant.merging.reference import Reference
from requant.pruning.structure import Wanted
from requant.students import LIKE
from tests.tiny_folder import write_tiny_folder, write_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
NAME = "model.layers.{}.mlp.up_proj.weight"


def requant(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def values_of(path):
    return {tensor.name: tensor.numpy() for tensor in formats.open(Path(path)).tensors}


def write_teacher(folder, layers=6):
    """A random Llama of some layers, with a tokenizer."""
    folder.mkdir()
    vocabulary = write_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_student_begins_with_the_teachers_layers(mapping, tmp_path):
    write_teacher(tmp_path / "teacher")
    requant("student", tmp_path / "teacher", tmp_path / "student", "--layers", 3, "--mapping", mapping, "-q")
    teacher, student = values_of(tmp_path / "teacher"), values_of(tmp_path / "student")
    layers = student_layers(6, 3, mapping)
    for n, layer in enumerate(layers):
        assert np.array_equal(student[NAME.format(n)], teacher[NAME.format(layer)])
    assert NAME.format(3) not in student
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
    whole.model.layers = torch.nn.ModuleList([whole.model.layers[layer] for layer in layers])
    for n, layer in enumerate(whole.model.layers):
        layer.self_attn.layer_idx = n
    tokens = torch.arange(12)[None]
    assert torch.allclose(model(tokens, use_cache=False).logits, whole(tokens, use_cache=False).logits, atol=1e-6)


def test_a_narrower_student_loads_and_speaks_its_widths(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    words = ("--layers", 1, "--hidden", 128, "--ffn", 192, "--kv-heads", 1)
    requant("student", tmp_path / "tiny", tmp_path / "student", *words, "-q")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (1, 128, 192)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 64)
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_students_of_the_literature(tmp_path):
    """DistilBERT's script takes 0, 2, 4, 7, 9, 11 of 12; TinyBERT 3, 6, 9, 12 counted from 1, and 1,200 neurons."""
    config = transformers.BertConfig(num_hidden_layers=12, vocab_size=32, max_position_embeddings=16)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    teacher = model_of(Reference("bert"), formats.open(tmp_path / "bert"))
    assert LIKE["distilbert"](teacher).of(teacher) == Wanted(layers=(0, 2, 4, 7, 9, 11))
    tiny = LIKE["tinybert"](teacher).of(teacher)
    assert tiny == Wanted(layers=(2, 5, 8, 11), hidden=320, heads=5, kv_heads=5, ffn=1200)
    requant("student", tmp_path / "bert", tmp_path / "student", "--like", "tinybert", "-q")
    student = transformers.AutoModel.from_pretrained(tmp_path / "student")
    assert student.config.hidden_size == 320 and student.config.num_hidden_layers == 4
    assert student.encoder.layer[0].intermediate.dense.weight.shape == (1200, 320)


def test_the_options_are_those_of_the_tables():
    (mapping,) = (option for option in command.student.params if option.name == "mapping")
    assert tuple(LIKE) == command._LIKE and set(MAPPINGS) == set(mapping.type.choices)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--like distilbert --layers 1", "--like says depth and width"),
        ("--mapping first", "--mapping goes with --layers"),
        ("", "the student is the whole teacher"),
        ("--layers 3", "3 layers cannot be chosen of 2"),
        ("--hidden 999", "the model has 256"),
    ],
)
def test_what_is_no_student(words, message, tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    result = CliRunner().invoke(cli, ["student", str(tmp_path / "tiny"), str(tmp_path / "out"), *words.split()])
    assert result.exit_code in (2, 4) and message in result.output, result.output


def test_a_pipeline_has_it_as_a_stage(tmp_path, monkeypatch):
    write_tiny_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    stages = [{"student": {"layers": 1, "ffn": 256}}, {"quantize": "Q8_0"}]
    Path("r.yaml").write_text(json.dumps({"model": "./tiny", "stages": stages, "output": "out.gguf"}))
    requant("run", "r.yaml")
    requant("student", "tiny", "student", "--layers", 1, "--ffn", 256, "-q")
    requant("convert", "student", "stepwise.gguf", "--to", "Q8_0", "-q")
    one, other = values_of("out.gguf"), values_of("stepwise.gguf")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.pin_memory")
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_pages_distillation_makes_a_student_more_like_its_teacher(divergence, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    write_teacher(tmp_path / "teacher", layers=4)
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The rain in Spain stays mainly in the plain, and then another thing began. " * 60)
    requant("student", "teacher", "student", "--layers", 2, "-q")
    (script,) = re.findall(r"```python\n(from pathlib.*?)```", PAGE.read_text(), re.DOTALL)
    assert "STEPS = 64, 200" in script and 'divergence="forward"' in script
    script = script.replace('divergence="forward"', f'divergence="{divergence}"')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where the machine is busy
    try:
        exec(script.replace("STEPS = 64, 200", "STEPS = 64, 60"), {"__name__": "distillation"})
    finally:
        torch.set_num_threads(threads)
    requant("convert", "distilled", "distilled-q4.gguf", "--to", "Q4_K_M", "-q")
    assert far("distilled") < 0.8 * far("student")


@torch.no_grad()
def far(name):
    """KL from the teacher, in nats."""
    tokenizer = transformers.AutoTokenizer.from_pretrained("teacher")
    tokens = torch.tensor(tokenizer("Then another thing began, and the rain stays in Spain.")["input_ids"])[None]
    theirs, ours = (
        torch.log_softmax(transformers.AutoModelForCausalLM.from_pretrained(one)(tokens).logits, -1)
        for one in ("teacher", name)
    )
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())
