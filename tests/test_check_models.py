"""`requant check` against what a model was made from: an HF folder in transformers, or in our own conversion of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.verify.check import default_text
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.transformers import Transformers
from tests.models import minilm, smollm2
from tests.tiny_gguf import write_tiny_llama


def requant(*arguments):
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code in (0, 5), result.stderr or result.exception
    return result


def report(*arguments):
    result = requant("check", *arguments, "--json", "--threads", 1)
    return json.loads(result.stdout), result.stderr


def test_a_folder_beside_the_file_it_came_from(tmp_path, monkeypatch):
    """The same random weights and the same tokens, whoever computes them."""
    tiny, folder = write_tiny_llama(tmp_path / "tiny.gguf"), tmp_path / "hf"
    requant("convert", tiny, folder, "--quiet")
    limits = ("--ctx", 64, "--against", folder, "--max-kl", 1e-4, "--max-ppl-ratio", 1.01, "--min-top1", 0.98)
    found, err = report(tiny, *limits)
    assert found["ok"] and found["against"]["tokens_equal"], err
    assert found["against"]["reference"].startswith("transformers")
    assert found["warnings"] == []
    found, err = report(tiny, *limits, "--reference", "requant")
    assert found["ok"] and found["against"]["divergence"]["kl"]["value"] == 0, err
    page = tmp_path / "page.html"
    found, err = report(tiny, *limits, "--reference", "requant", "--html", page)
    assert found["relative_errors"] and set(found["relative_errors"].values()) == {0.0} and page.exists(), err
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"llama"', '"nonesuch"'))
    found = requant("check", tiny, *limits, "--reference", "transformers", "--threads", 1)
    assert found.exit_code == 5 and "transformers could not load it" in found.stderr
    monkeypatch.setattr("requant.verify.transformers.is_installed", lambda: False)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"nonesuch"', '"llama"'))
    found, err = report(tiny, *limits)
    assert found["ok"], err
    assert found["against"]["reference"].endswith("in llama.cpp (transformers is not installed)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2 as an HF folder."""
    path = tmp_path_factory.mktemp("smollm2") / "hf"
    requant("convert", smollm2(), path, "--quiet")
    return path


@pytest.fixture(scope="module")
def q8(folder):
    path = Path(folder).with_name("q8.gguf")
    requant("convert", folder, path, "--to", "Q8_0", "--quiet")
    return path


@pytest.mark.slow
def test_a_good_quantization_is_near_its_folder_in_transformers(folder, q8):
    found, err = report(
        q8, "--against", folder, "--chunks", 1, "--expect", "Paris", "--max-kl", 0.01, "--min-top1", 0.95
    )
    assert found["ok"], err
    assert found["answer"]["chat"] and "Paris" in found["answer"]["text"]
    against = found["against"]
    assert against["reference"].startswith("transformers") and against["tokens_equal"]
    assert against["divergence"]["ratio"]["value"] == pytest.approx(1, abs=0.04)
    assert 10 < found["perplexity"]["value"] < 40


@pytest.mark.slow
def test_our_own_conversion_stands_in_for_transformers(folder, q8):
    theirs, _ = report(q8, "--against", folder, "--chunks", 1, "--prompt", "")
    ours, _ = report(q8, "--against", folder, "--chunks", 1, "--prompt", "", "--reference", "requant")
    assert ours["against"]["reference"] == "hf as requant converts it to F32, in llama.cpp"
    assert ours["against"]["perplexity"]["value"] == pytest.approx(theirs["against"]["perplexity"]["value"], rel=0.005)
    assert ours["against"]["divergence"]["kl"]["value"] == pytest.approx(
        theirs["against"]["divergence"]["kl"]["value"], abs=0.002
    )


@pytest.mark.slow
def test_a_wrong_tokenizer_fails(folder, q8, tmp_path):
    broken = tmp_path / "hf"
    shutil.copytree(folder, broken)
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    found, err = report(q8, "--against", broken, "--chunks", 1, "--prompt", "")
    assert not found["ok"] and not found["against"]["tokens_equal"]
    assert "the tokenizers disagree from token 0 on" in err


@pytest.mark.slow
def test_wrong_weights_fail(folder, q8, tmp_path):
    """A swapped pair of heads, as a wrong row order would leave them: it still speaks, but not as it should."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "hf"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    for n in range(30):
        rows = weights[f"model.layers.{n}.self_attn.q_proj.weight"]
        weights[f"model.layers.{n}.self_attn.q_proj.weight"] = rows.roll(64, 0)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    found, err = report(q8, "--against", broken, "--chunks", 1, "--prompt", "")
    assert not found["ok"] and "KL divergence" in err and "top-1 agreement" in err


@pytest.fixture(scope="module")
def minilm_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("minilm") / "minilm.gguf"
    requant("convert", minilm(), path, "--to", "F32", "--quiet")
    return path


@pytest.mark.slow
def test_minilm_embeds_as_in_transformers(minilm_gguf):
    reference = Transformers(minilm(), encoder=True)
    texts = [line for line in default_text().splitlines() if line][:8]
    with LlamaCpp(minilm_gguf, embeddings=True, threads=1) as llama:
        for text in texts:
            tokens = llama.tokenize(text)
            assert tokens == reference.tokenize(text)
            ours, theirs = llama.embed(tokens)[0], reference.embed(tokens)[0]
            difference = ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)
            assert np.abs(difference).max() < 1e-3


@pytest.mark.slow
def test_an_encoder_is_checked_by_its_embeddings(minilm_gguf, tmp_path):
    found, err = report(minilm_gguf, "--against", minilm(), "--min-cosine", 0.9999)
    assert found["ok"], err
    assert found["answer"] is None and found["perplexity"] is None and found["embedded"] == 16
    assert found["against"]["cosine"] > 0.9999
    small = tmp_path / "q4.gguf"
    requant("convert", minilm(), small, "--to", "Q4_0", "--quiet")
    found, err = report(small, "--against", minilm(), "--min-cosine", 0.9999)
    assert not found["ok"] and "cosine similarity" in err
