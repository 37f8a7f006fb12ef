"""RWKV 7, which transformers has no class for, computes in llama.cpp what its paper says."""

from safetensors.numpy import load_file

from requant.verify.llama_cpp import LlamaCpp
from tests.published_rwkv import logits
from tests.test_architectures_run import agree, to_gguf, tokens
from tests.tiny_models import make


def test_logits_are_those_of_the_paper(tmp_path):
    make("rwkv7", tmp_path / "hf")
    path, text = to_gguf(tmp_path / "hf", tmp_path / "model.gguf"), tokens(300)
    with LlamaCpp(path, n_ctx=len(text), precise=True) as runtime:
        ours = runtime.logits(text)
    agree(ours, logits(load_file(tmp_path / "hf/model.safetensors"), text))
