"""Tiny random models of every family compute the same in llama.cpp as in transformers, and come back whole."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from requant.encodings import Blocks
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Typed
from requant.operations import requantize
from requant.operations.convert import Request, plan_conversion
from requant.operations.requantize import plan_requantization
from requant.operations.validate import validate
from requant.verify.llama_cpp import LlamaCpp
from tests import models
from tests.naive_expressions import values
from tests.test_architectures import LOST, MULTIPLIED, TOKENIZER, UNPACKED, as_text, plainly, same, sees
from tests.tiny_models import DIFFUSION, ENCODERS, MODELS, TWO_STACKS, VOCABULARY, make
from tests.tiny_published import PUBLISHED

#: Largest difference of two logits, as a part of their range.
TOLERANCE = 1e-3


def to_gguf(folder, path, *, encoder=False, recipe="F32"):
    source = Safetensors().read(folder)
    words = ()
    if encoder:  # llama.cpp asks an encoder for a vocabulary, whatever it is
        count = source.config["vocab_size"]
        words = (
            ("tokenizer.ggml.model", Typed("str", "bert")),
            ("tokenizer.ggml.tokens", Typed("[str]", [f"▁{n}" for n in range(count)])),
            ("tokenizer.ggml.token_type", Typed("[i32]", [1] * count)),
        )
    execute(plan_conversion(source, Gguf(), path, Request(recipe, vocabulary=False, key_values=words)))
    return path


def tokens(length):
    return np.random.default_rng(3).integers(3, VOCABULARY, length).tolist()


#: Of models whose norms make much of little: ggml looks gelu up in a table of float16, as `Looked` does.
ROUGHER = {"gemma3n": 3e-3, "gemma4": 3e-3, "gemma4-experts": 3e-3}


#: Of long texts, of which tokens are chosen by scores: llama.cpp's norm of an indexer's keys has no epsilon here, and
#: where two scores are that close, another token is chosen.
CHOOSING = dict.fromkeys(("glmdsa", "glmdsa-shared"), 1e-2)


class Looked(torch.nn.Module):
    """ggml's gelu."""

    def forward(self, x):
        """A number of float16 of one of float16, between -10 and 10."""
        found = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x >= 10, x, torch.where(x <= -10, 0 * x, found))


def as_ggml(model):
    """The model with ggml's gelu."""
    for part in model.modules():
        if hasattr(part, "act_fn"):
            part.act_fn = Looked()
    return model


def agree(ours, theirs, tolerance=TOLERANCE):
    spread = theirs.max() - theirs.min()
    worst = np.abs(ours - theirs).max() / spread
    assert worst <= tolerance, worst
    if tolerance > TOLERANCE:  # of which the best of two close ones says nothing more
        return
    # where two tokens are as likely as rounding lets them be, either may come first
    best = ours.argmax(axis=1)
    rows = np.arange(len(best))
    assert np.all(theirs[rows, best] >= theirs.max(axis=1) - tolerance / 10 * spread)


#: What llama.cpp computes otherwise, which a loss tells: the weights of Phi-3.5-MoE's experts.
OTHERWISE_COMPUTED = {"phimoe"}
#: The variants of a family take the time of the whole suite; one of each is enough for every day.
NAMES = [pytest.param(name, marks=pytest.mark.slow) if "-" in name or name in PUBLISHED else name for name in MODELS]
#: Without those that llama.cpp computes otherwise, which a loss tells: it cuts the borders of yarn, gpt-oss does not.
DECODERS = [
    pytest.param(name, marks=pytest.mark.slow) if "-" in name or name in PUBLISHED else name
    for name in MODELS
    if name not in ENCODERS | DIFFUSION | TWO_STACKS and name != "gptoss-published"
]


@pytest.mark.parametrize("length", [24, pytest.param(1100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DECODERS)
def test_logits(name, length, tmp_path):
    model = make(name, tmp_path / "hf")
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    text = tokens(length)
    with LlamaCpp(path, n_ctx=length, precise=True) as runtime:
        ours = runtime.logits(text)
    assert np.isfinite(ours).all() and np.ptp(ours) > 0
    if model is not None and name not in OTHERWISE_COMPUTED:
        with torch.inference_mode():
            reference = as_ggml(model) if name in ROUGHER else model
            theirs = reference(torch.tensor([text])).logits[0].float().numpy()
        chosen = CHOOSING.get(name, TOLERANCE) if length > 512 else TOLERANCE
        agree(ours, theirs, ROUGHER.get(name, chosen))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if getattr(name, "values", (name,))[0] in ENCODERS | DIFFUSION]
)
def test_embeddings(name, tmp_path):
    model = make(name, tmp_path / "hf")
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf", encoder=True)
    text = tokens(100)
    with LlamaCpp(path, n_ctx=128, embeddings=True, precise=True) as runtime:
        ours = runtime.embed(text)
    assert np.isfinite(ours).all() and np.ptp(ours) > 0
    if model is not None:
        with torch.inference_mode():
            inner = model.model if name in DIFFUSION else model
            theirs = inner(torch.tensor([text])).last_hidden_state[0].numpy()
            agree(ours, theirs[: len(ours)])  # of the first token alone where the GGUF says so
            assert len(ours) == (1 if name == "neobert" else len(text))


@pytest.mark.slow
@pytest.mark.parametrize("length", [24, 1100])
@pytest.mark.parametrize("name", sorted(TWO_STACKS))
def test_logits_of_two_stacks(name, length, tmp_path):
    """What the decoder says of a text that the encoder has read, but for a factor that a loss tells llama.cpp lacks."""
    model = make(name, tmp_path / "hf")
    path = to_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    asked = {"read": tokens(length), "write": tokens(length)[::-1]}
    source, out = tmp_path / "in.json", tmp_path / "out.npy"
    source.write_text(json.dumps(asked))
    command = [sys.executable, "-m", "tests.two_stacks", *map(str, (path, source, out))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.inference_mode():
        read, write = (torch.tensor([asked[part]]) for part in ("read", "write"))
        theirs = model(input_ids=read, decoder_input_ids=write).logits[0].numpy()
    assert model.config.tie_word_embeddings
    # scores of attention are not scaled down in a T5, so that its softmax makes much of little
    agree(np.load(out) * model.config.d_model**-0.5, theirs, 3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in TWO_STACKS])
def test_q4_k_m_runs(name, tmp_path):
    """llama.cpp computes with what most people convert to, and nearly the same but for routers that choose others."""
    make(name, tmp_path / "hf")
    embeds = name in ENCODERS | DIFFUSION
    text, found = tokens(24), []
    for recipe in ("F32", "Q4_K_M"):
        path = to_gguf(tmp_path / "hf", tmp_path / f"{recipe}.gguf", encoder=embeds, recipe=recipe)
        with LlamaCpp(path, n_ctx=32, embeddings=embeds, precise=True) as runtime:
            found.append((runtime.embed if embeds else runtime.logits)(text))
    exact, quantized = found
    blocks = [tensor for tensor in Gguf().read(tmp_path / "Q4_K_M.gguf").tensors if isinstance(tensor.encoding, Blocks)]
    assert blocks and np.isfinite(quantized).all() and quantized.shape == exact.shape
    assert np.abs(quantized - exact).max() > 0 and np.corrcoef(quantized.ravel(), exact.ravel())[0, 1] > 0.5


def test_embeddings_of_minilm(tmp_path):
    folder = models.minilm()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    path = to_gguf(folder, tmp_path / "model.gguf", encoder=True)
    with LlamaCpp(path, n_ctx=512, embeddings=True, precise=True) as runtime:
        for length in (8, 300):
            text = [101, *np.random.default_rng(length).integers(1000, 30000, length).tolist(), 102]
            with torch.inference_mode():
                theirs = model(torch.tensor([text])).last_hidden_state[0].mean(dim=0).numpy()
            ours = runtime.embed(text)[0]
            assert np.abs(ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)).max() <= 1e-3


SHAM = {
    "none": {"tokenizer.ggml.model": Typed("str", "none")},
    "gpt2": {
        "tokenizer.ggml.model": Typed("str", "gpt2"),
        "tokenizer.ggml.pre": Typed("str", "gpt-2"),
        "tokenizer.ggml.tokens": Typed("[str]", [chr(0x100 + n) * 2 for n in range(VOCABULARY)]),
        "tokenizer.ggml.merges": Typed("[str]", []),
    },
    "t5": {
        "tokenizer.ggml.model": Typed("str", "t5"),
        "tokenizer.ggml.scores": Typed("[f32]", [0.0] * VOCABULARY),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_back_to_hf(name, tmp_path):
    model = make(name, tmp_path / "hf")
    converted = Gguf().read(to_gguf(tmp_path / "hf", tmp_path / "model.gguf", encoder=name in ENCODERS))
    path = tmp_path / "copied.gguf"  # in which a matrix of one row is a row, as in most files that users have
    execute(plan_requantization(converted, Gguf(), path, requantize.Request("COPY")))
    for found in (validate(tmp_path / "hf"), validate(tmp_path / "model.gguf"), validate(path)):
        assert found.findings == [], found
    source = Gguf().read(path)
    sham = SHAM[TOKENIZER.get(name, "none")]  # of an encoder, until now
    source = replace(source, metadata=source.metadata | sham)
    execute(plan_conversion(source, Safetensors(), tmp_path / "back", Request()))
    tensors = [tensor for tensor in Safetensors().read(tmp_path / "hf").tensors if not sees(name, tensor.name)]
    before = {plainly(name, tensor.name): values(tensor) for tensor in tensors}
    before = UNPACKED.get(name, dict)(before)
    after = {as_text(tensor.name): values(tensor) for tensor in Safetensors().read(tmp_path / "back").tensors}
    assert before.keys() - after.keys() == {plainly(name, lost) for lost in LOST.get(name, set())} & before.keys()
    for tensor, array in after.items():
        assert name in MULTIPLIED or same(tensor, array, before[tensor]), tensor
    if name in PUBLISHED or name == "museglimmer":  # which transformers has with a vision model only
        return
    with contextlib.redirect_stderr(io.StringIO()):
        again = transformers.AutoModelForCausalLM if name not in ENCODERS else transformers.AutoModel
        if name in TWO_STACKS or name in ("t5encoder", "mistral4"):  # which AutoModelForCausalLM does not list
            again = type(model)
        elif name == "mistral4-small":
            again = transformers.Mistral4ForCausalLM
        loaded = again.from_pretrained(tmp_path / "back").eval()
    text = torch.tensor([tokens(24)])
    with torch.inference_mode():
        more = {"decoder_input_ids": text} if name in TWO_STACKS else {}
        ours, theirs = loaded(text, **more)[0], model(text, **more)[0]
        # stacks of experts are multiplied where they lie in the file, in an order that the place decides
        near = any(tensor.endswith(("A_log", "input_linear.weight")) for tensor in after)
        near |= name in MULTIPLIED
        assert torch.allclose(ours, theirs, atol=1e-4) if near else torch.equal(ours, theirs)
