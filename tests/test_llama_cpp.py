"""llama.cpp in its own process: right answers, and no way for it to take us down."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from requant.errors import UnsupportedError, VerifyError
from requant.verify import llama_cpp
from requant.verify.llama_cpp import LlamaCpp
from tests.interrupts import heed_interrupts
from tests.tiny_gguf import EMBD, vocabulary, write_tiny_llama

TEXT = "the cat sat on a mat. the dog, Ünal's, did not!"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama(tiny):
    with LlamaCpp(tiny, n_ctx=256, threads=1, precise=True) as llama:
        yield llama


def test_the_model_is_described(llama):
    info = llama.info
    assert (info.n_vocab, info.n_embd, info.n_ctx_train) == (len(vocabulary()[0]), EMBD, 256)
    assert (info.bos, info.eos, info.add_bos, info.causal) == (1, 2, True, True)
    assert info.begins_with == llama.tokenize("a")[0]
    assert replace(info, add_bos=False).begins_with is None
    assert info.chat_template is None


def test_tokens_spell_the_text(llama):
    tokens = llama.tokenize(TEXT)
    assert tokens[0] == 1
    assert b"".join(llama.detokenize(tokens, special=False)).decode() == " " + TEXT
    assert llama.tokenize("</s>", add_special=False) != [2]
    assert llama.tokenize("</s>", add_special=False, parse_special=True) == [2]


def test_logits_do_not_depend_on_how_a_sequence_is_cut(llama):
    tokens = llama.tokenize(TEXT * 5)[:200]  # two batches
    whole = llama.logits(tokens)
    assert whole.shape == (200, llama.info.n_vocab)
    assert np.ptp(whole) > 1
    np.testing.assert_allclose(llama.logits(tokens, first=150), whole[150:], atol=1e-4)
    one_by_one = [llama.logits_of_batch([token], reset=i == 0)[0] for i, token in enumerate(tokens[:10])]
    np.testing.assert_allclose(np.stack(one_by_one), whole[:10], atol=1e-4)


def test_logits_are_those_of_the_formula(tiny, llama):
    """The first token attends to itself only, so its logits need no rotary embedding."""
    from gguf import GGUFReader

    weights = {
        tensor.name.removesuffix(".weight"): tensor.data.astype(np.float64) for tensor in GGUFReader(tiny).tensors
    }

    def norm(x, weight):
        return x / np.sqrt((x * x).mean() + 1e-5) * weight

    x = weights["token_embd"][42]
    for n in range(2):
        block = {name.removeprefix(f"blk.{n}."): w for name, w in weights.items() if name.startswith(f"blk.{n}.")}
        x = x + block["attn_output"] @ (block["attn_v"] @ norm(x, block["attn_norm"]))
        h = norm(x, block["ffn_norm"])
        gate = block["ffn_gate"] @ h
        x = x + block["ffn_down"] @ (gate / (1 + np.exp(-gate)) * (block["ffn_up"] @ h))
    expected = weights["output"] @ norm(x, weights["output_norm"])
    np.testing.assert_allclose(llama.logits([42])[0], expected, atol=1e-4)


def test_generation_takes_the_likeliest_token(llama):
    tokens = llama.tokenize("the cat")
    made = llama.generate(tokens, 5)
    for token in made.tokens:
        assert token == llama.logits(tokens)[-1].argmax()
        tokens.append(token)
    assert made.tokens and made.seconds > 0 and made.prompt_tokens == len(llama.tokenize("the cat"))


def test_too_many_tokens_are_refused_before_llama_cpp_sees_them(llama):
    with pytest.raises(VerifyError, match="do not fit into a context of 256"):
        llama.logits([5] * 257)
    with pytest.raises(VerifyError, match="do not fit into a context of 256"):
        llama.generate([5] * 250, 7)


def test_progress_is_reported(tiny):
    seen = []
    with LlamaCpp(tiny, threads=1, progress=seen.append) as llama:
        assert seen[-1] == 1.0
        llama.generate([5, 6], 3)
    assert all(0 <= fraction <= 1 for fraction in seen)


def test_a_vocabulary_alone_can_tokenize(tiny, llama):
    with LlamaCpp(tiny, vocab_only=True) as vocabulary_only:
        assert vocabulary_only.tokenize(TEXT) == llama.tokenize(TEXT)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[: len(raw) // 2], "not within the file bounds"),
        (lambda raw: b"GGUX" + raw[4:], "magic"),
        (lambda raw: raw.replace(b"attn_output", b"attn_outpux"), "attn_output"),
        (lambda raw: b"", "load"),
    ],
)
def test_a_refusal_carries_llama_cpps_reason(tiny, tmp_path, damage, says):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(tiny.read_bytes()))
    with pytest.raises(VerifyError, match="could not load the model") as error:
        LlamaCpp(bad, threads=1)
    assert "bad.gguf" in str(error.value)
    assert says in error.value.hint


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VerifyError, match=r"none\.gguf: no such file"):
        LlamaCpp(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGKILL, "SIGKILL, perhaps for lack of memory"), (signal.SIGABRT, "SIGABRT")]
)
def test_a_crash_is_an_error_here(tiny, number, says):
    with LlamaCpp(tiny, threads=1) as llama:
        os.kill(llama._process.pid, number)
        with pytest.raises(VerifyError, match=says):
            llama.logits([5, 6, 7])
        with pytest.raises(VerifyError, match=says):  # and again
            llama.tokenize("a")


def test_a_hang_ends(tiny):
    with LlamaCpp(tiny, threads=1, timeout=5) as llama:
        llama.timeout = 0.2
        os.kill(llama._process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(VerifyError, match=r"no sign of life for 0\.2 s"):
            llama.logits([5])
        assert time.monotonic() - start < 5


def test_the_child_ends_with_the_block(tiny):
    with LlamaCpp(tiny, threads=1) as llama:
        assert llama._process.poll() is None
    assert llama._process.poll() is not None


def test_the_child_ends_with_a_parent_that_was_killed(tiny):
    code = (
        "import sys, time; from pathlib import Path; from requant.verify.llama_cpp import LlamaCpp;"
        "llama = LlamaCpp(Path(sys.argv[1]), threads=1); print(llama._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tiny], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    assert ends(child)


def ends(pid):
    """Whether a process is gone within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_an_interrupt_ends_the_check_and_its_child(tiny):
    command = [sys.executable, "-m", "requant", "check", tiny, "--predict", "200", "--threads", "1", "--chunks", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 30
        while not (found := children.read_text().split()) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in err
    assert found and all(ends(int(pid)) for pid in found)


def test_nothing_is_printed(tiny, tmp_path, capfd):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny.read_bytes()[:3000])
    with LlamaCpp(tiny, threads=1) as llama:
        llama.logits([5])
    with pytest.raises(VerifyError):
        LlamaCpp(bad)
    assert capfd.readouterr() == ("", "")


def test_without_xllamacpp_the_package_to_install_is_named(tiny, monkeypatch):
    monkeypatch.setattr(llama_cpp.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError) as error:
        LlamaCpp(tiny)
    assert error.value.hint == 'pip install "requant[llama]"'


def test_another_release_is_driven_through_its_server(tiny, llama, monkeypatch):
    monkeypatch.setattr(llama_cpp.importlib.metadata, "version", lambda name: "2099.1.1")
    tokens = llama.tokenize(TEXT)[:12]
    with LlamaCpp(tiny, n_ctx=256, threads=1, precise=True) as server:
        for name in ("n_vocab", "n_embd", "n_ctx_train", "parameters", "causal", "bos", "eos", "add_bos"):
            assert getattr(server.info, name) == getattr(llama.info, name)
        assert server.tokenize(TEXT) == llama.tokenize(TEXT)
        assert server.generate(tokens, 4).tokens == llama.generate(tokens, 4).tokens
        expected = llama.logits(tokens, first=8)
        expected = expected - np.log(np.exp(expected).sum(1, keepdims=True))
        np.testing.assert_allclose(server.logits(tokens, first=8), expected, atol=1e-3)
    with pytest.raises(VerifyError, match="cannot load a vocabulary alone"):
        LlamaCpp(tiny, vocab_only=True)
