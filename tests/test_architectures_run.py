"""Tiny random models of every family compute the same in llama.cpp as in transformers, and come back whole."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Typed
from requant.operations import requantize
from requant.operations.convert import Request, plan_conversion
from requant.operations.requantize import plan_requantization
from requant.verify.llama_cpp import LlamaCpp
from tests import models
from tests.naive_expressions import values
from tests.test_architectures import LOST, VISION, as_text, same
from tests.tiny_models import MODELS, VOCABULARY, make

#: Largest difference of two logits, as a part of their range.
TOLERANCE = 1e-3


def to_gguf(folder, path):
    source = Safetensors().read(folder)
    words = ()
    if source.architecture == "bert":  # llama.cpp asks an encoder for a vocabulary, whatever it is
        count = source.config["vocab_size"]
        words = (
            ("tokenizer.ggml.model", Typed("str", "bert")),
            ("tokenizer.ggml.tokens", Typed("[str]", [f"▁{n}" for n in range(count)])),
            ("tokenizer.ggml.token_type", Typed("[i32]", [1] * count)),
        )
    execute(plan_conversion(source, Gguf(), path, Request(recipe="F32", vocabulary=False, key_values=words)))
    return path


def tokens(length):
    return np.random.default_rng(3).integers(3, VOCABULARY, length).tolist()


def agree(ours, theirs):
    spread = theirs.max() - theirs.min()
    worst = np.abs(ours - theirs).max() / spread
    assert worst <= TOLERANCE, worst
    # where two tokens are as likely as rounding lets them be, either may come first
    best = ours.argmax(axis=1)
    rows = np.arange(len(best))
    assert np.all(theirs[rows, best] >= theirs.max(axis=1) - TOLERANCE / 10 * spread)


#: The variants of a family take the time of the whole suite; one of each is enough for every day.
NAMES = [pytest.param(name, marks=pytest.mark.slow) if "-" in name else name for name in MODELS]
#: Without those that llama.cpp computes otherwise, which a loss tells: it cuts the borders of yarn, gpt-oss does not.
DECODERS = [
    pytest.param(name, marks=pytest.mark.slow) if "-" in name else name
    for name in MODELS
    if name not in ("bert", "gptoss-published")
]


@pytest.mark.parametrize("length", [24, pytest.param(1100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DECODERS)
def test_logits(name, length, tmp_path):
    model = make(name, tmp_path / "hf")
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    text = tokens(length)
    with torch.inference_mode():
        theirs = model(torch.tensor([text])).logits[0].float().numpy()
    with LlamaCpp(path, n_ctx=length, precise=True) as runtime:
        agree(runtime.logits(text), theirs)


def test_embeddings_of_bert(tmp_path):
    model = make("bert", tmp_path / "hf")
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    text = tokens(24)
    with torch.inference_mode():
        theirs = model(torch.tensor([text])).last_hidden_state[0].numpy()
    with LlamaCpp(path, n_ctx=128, embeddings=True, precise=True) as runtime:
        agree(runtime.embed(text), theirs)


def test_embeddings_of_minilm(tmp_path):
    folder = models.minilm()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    path = to_gguf(folder, tmp_path / "model.gguf")
    with LlamaCpp(path, n_ctx=512, embeddings=True, precise=True) as runtime:
        for length in (8, 300):
            text = [101, *np.random.default_rng(length).integers(1000, 30000, length).tolist(), 102]
            with torch.inference_mode():
                theirs = model(torch.tensor([text])).last_hidden_state[0].mean(dim=0).numpy()
            ours = runtime.embed(text)[0]
            assert np.abs(ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)).max() <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_back_to_hf(name, tmp_path):
    model = make(name, tmp_path / "hf")
    converted = Gguf().read(to_gguf(tmp_path / "hf", tmp_path / "model.gguf"))
    path = tmp_path / "copied.gguf"  # in which a matrix of one row is a row, as in most files that users have
    execute(plan_requantization(converted, Gguf(), path, requantize.Request("COPY")))
    source = Gguf().read(path)
    source = replace(
        source, metadata=source.metadata | {"tokenizer.ggml.model": Typed("str", "none")}
    )  # BERT's is a sham
    execute(plan_conversion(source, Safetensors(), tmp_path / "back", Request()))
    before = {as_text(tensor.name): values(tensor) for tensor in Safetensors().read(tmp_path / "hf").tensors}
    before = {key: array for key, array in before.items() if not VISION.fullmatch(key)}
    after = {tensor.name: values(tensor) for tensor in Safetensors().read(tmp_path / "back").tensors}
    assert before.keys() - after.keys() == LOST.get(name, set()) & before.keys()
    for tensor, array in after.items():
        assert same(tensor, array, before[tensor]), tensor
    with contextlib.redirect_stderr(io.StringIO()):
        again = transformers.AutoModelForCausalLM if name != "bert" else transformers.AutoModel
        loaded = again.from_pretrained(tmp_path / "back").eval()
    text = torch.tensor([tokens(24)])
    with torch.inference_mode():
        ours, theirs = loaded(text)[0], model(text)[0]
        # stacks of experts are multiplied where they lie in the file, in an order that the place decides
        near = any(tensor.endswith(("A_log", "input_linear.weight")) for tensor in after)
        assert torch.allclose(ours, theirs, atol=1e-4) if near else torch.equal(ours, theirs)
