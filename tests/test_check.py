"""`requant check`: figures that are right, failures that say why, exit codes."""

import json
import re
from dataclasses import fields

import numpy as np
import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.errors import VerifyError
from requant.verify.check import Limits, default_text
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import BATCH, Comparison, Perplexity, pieces, scored_blocks, windows
from tests.tiny_gguf import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on a mat. " * 40)
    return path


def run(*arguments):
    shorter = [] if "" in arguments else ["--predict", "4"]  # which goes with a prompt
    result = CliRunner().invoke(cli, ["check", *map(str, arguments), "--threads", "1", *shorter])
    return result.exit_code, result.stdout, result.stderr


def test_the_help_says_what_the_limits_are():
    said = " ".join(CliRunner().invoke(cli, ["check", "--help"]).stdout.split())
    for limit in fields(Limits):
        _, _, after = said.partition(f"--{limit.name.replace('_', '-')} ")
        assert re.search(r"\[default: ([\d.]+)\]", after)[1] == str(limit.default), limit.name


# windows and figures


def test_windows_are_those_of_llama_perplexity():
    work = windows(range(1000, 1100), 32, None, bos=7)
    assert [window.tokens[:2] for window in work] == [(7, 1001), (7, 1033), (7, 1065)]
    assert {(len(window.tokens), window.first, window.scored) for window in work} == {(32, 16, 15)}
    assert len(windows(range(100), 32, 2, None)) == 2
    (short,) = windows(range(20), 512, 4, None)
    assert short.tokens == tuple(range(20)) and short.first == 10


@pytest.mark.parametrize(("n", "first"), [(1, 0), (BATCH, 0), (BATCH, BATCH - 1), (300, 150), (511, 256)])
def test_pieces_cover_each_row_once(n, first):
    rows = [i for start, stop in pieces(n, first) for i in range(start, stop)]
    assert rows == list(range(first, n))
    assert all(stop - start <= BATCH for start, stop in pieces(n, first))


def naive_log_softmax(row):
    return row - np.log(np.sum(np.exp(row)))


def test_figures_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, 50, 30)).astype(np.float32)
    q = (p + 0.3 * q).astype(np.float32)
    targets = rng.integers(0, 30, 50)
    comparison = Comparison()
    comparison.add(q[:20], p[:20], targets[:20])
    comparison.add(q[20:], p[20:], targets[20:])
    lp, lq = (np.stack([naive_log_softmax(row) for row in x.astype(float)]) for x in (p, q))
    kl = np.sum(np.exp(lp) * (lp - lq), 1)
    costs, expected = (-x[np.arange(50), targets] for x in (lq, lp))
    found = comparison.measure()
    assert found.kl.value == pytest.approx(kl.mean())
    assert found.kl.error == pytest.approx(kl.std(ddof=1) / 50**0.5)
    assert (found.kl_99, found.kl_max) == (pytest.approx(np.quantile(kl, 0.99)), pytest.approx(kl.max()))
    assert found.top1.value == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert found.ratio.value == pytest.approx(np.exp(costs.mean()) / np.exp(expected.mean()))
    assert comparison.model.measure().value == pytest.approx(np.exp(costs.mean()))
    assert 0 < found.top1.value < 1 < 50 == comparison.model.count


def test_equals_do_not_diverge():
    logits = np.random.default_rng(1).normal(size=(8, 100)).astype(np.float32)
    comparison = Comparison()
    comparison.add(logits, logits.copy(), range(8))
    found = comparison.measure()
    assert (found.kl.value, found.top1.value, found.ratio.value, found.ratio.error) == (0, 1, 1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(bad):
    logits = np.zeros((2, 4), np.float32)
    logits[1, 2] = bad
    with pytest.raises(VerifyError, match="1 of 8 logits are NaN or infinite"):
        Perplexity().add(logits, [0, 0])


def test_perplexity_in_blocks_is_that_of_whole_windows(tiny, text):
    with LlamaCpp(tiny, n_ctx=256, threads=1) as llama:
        work = windows(llama.tokenize(text.read_text()), 200, 2, llama.info.bos)
        streamed, whole = Perplexity(), Perplexity()
        for (logits,), targets in scored_blocks([llama], work):
            streamed.add(logits, targets)
        for window in work:
            whole.add(llama.logits(window.tokens)[window.first : -1], window.tokens[window.first + 1 :])
    assert streamed.count == whole.count == 2 * 99
    assert streamed.measure().value == pytest.approx(whole.measure().value, rel=1e-5)


def test_the_default_text_fills_four_windows_of_words():
    assert len(default_text().split()) > 1400


# the command


def test_a_model_alone(tiny, text):
    code, out, err = run(tiny, "--text", text, "--ctx", 64)
    assert code == 0, err
    assert "llama" in out and "perplexity" in out and "answer" in out and out.endswith("passed\n")
    assert "(raw)" in out  # it has no chat template


def test_the_json_report(tiny, text):
    code, out, _ = run(tiny, "--text", text, "--ctx", 64, "--chunks", 2, "--against", tiny, "--json")
    report = json.loads(out)
    assert code == 0 and report["ok"] and report["failures"] == []
    assert report["model"] == str(tiny)
    assert report["scored_tokens"] == 2 * 31 and report["window"] == 64
    assert report["against"]["divergence"]["kl"] == {"value": 0, "error": 0}
    assert report["against"]["divergence"]["top1"]["value"] == 1
    assert report["against"]["perplexity"] == report["perplexity"]
    assert report["info"]["context"] == 256 and report["answer"]["tokens"] <= 4
    assert report["tokens_per_second"] > 0


def test_every_limit_can_fail(tiny, text, tmp_path):
    other = write_tiny_llama(tmp_path / "noisy.gguf", noise=0.5)
    common = (other, "--text", text, "--ctx", 64, "--against", tiny)
    code, out, err = run(*common)
    assert code == 5 and out.endswith("failed\n")
    assert "KL divergence" in err and "top-1 agreement" in err
    assert run(*common, "--max-kl", 99, "--min-top1", 0, "--max-ppl-ratio", 99)[0] == 0
    for limit in (("--max-kl", 0.001), ("--min-top1", 0.999), ("--max-ppl-ratio", 0.001)):
        loose = {"--max-kl": 99, "--min-top1": 0, "--max-ppl-ratio": 99} | dict([limit])
        code, _, err = run(*common, *(word for pair in loose.items() for word in pair))
        assert code == 5 and err.count(";") == 0, err


def test_an_unexpected_answer_fails(tiny, text):
    code, out, err = run(tiny, "--text", text, "--ctx", 64, "--expect", "Paris, of course")
    assert code == 5 and out.endswith("failed\n")
    assert "the answer does not contain 'Paris, of course'" in err


def test_a_damaged_weight_fails(tiny, text, tmp_path):
    code, _, err = run(write_tiny_llama(tmp_path / "nan.gguf", poison=np.nan), "--text", text, "--prompt", "")
    assert code == 5 and "NaN or infinite" in err
    code, _, err = run(tmp_path / "nan.gguf", "--text", text)
    assert code == 5 and "NaN" in err


def test_a_corrupt_file_fails_with_llama_cpps_words(tiny, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny.read_bytes()[:-5000])
    code, out, err = run(bad)
    assert code == 5 and out == ""
    assert "could not load the model" in err and "hint: llama.cpp's log:" in err and "file bounds" in err


def test_a_file_without_a_tokenizer_says_so(tmp_path):
    code, _, err = run(write_tiny_llama(tmp_path / "bare.gguf", tokenizer=False))
    assert code == 5 and "bare.gguf: the file has no tokenizer" in err


def test_other_vocabularies_cannot_be_compared(tiny, text, tmp_path):
    code, _, err = run(tiny, "--text", text, "--against", write_tiny_llama(tmp_path / "more.gguf", words=["zz"]))
    assert code == 5 and "320 tokens, but the reference has 321" in err


def test_texts_that_cannot_be_measured(tiny, tmp_path):
    (tmp_path / "short").write_text("a")
    (tmp_path / "latin1").write_bytes("café".encode("latin-1"))
    assert run(tiny, "--text", tmp_path / "short", "--prompt", "")[::2] == (
        4,
        "error: the text has 2 tokens, too few to measure\nhint: give at least 16\n",
    )
    code, _, err = run(tiny, "--text", tmp_path / "latin1")
    assert code == 2 and "latin1, byte 3: this is not UTF-8 text" in err


def test_without_transformers_it_cannot_be_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("requant.verify.transformers.is_installed", lambda: False)
    code, _, err = run(tiny, "--against", tmp_path, "--reference", "transformers")
    assert code == 4 and 'hint: pip install "requant[torch]"' in err


def test_two_models_beside_one_reference(tiny, text, tmp_path):
    near = write_tiny_llama(tmp_path / "near.gguf", noise=0.01)
    far = write_tiny_llama(tmp_path / "far.gguf", noise=0.05)
    words = ["--against", tiny, "--prompt", "", "--ctx", 64, "--chunks", 0, "--max-kl", 9, "--min-top1", 0]
    code, out, err = run(near, "--versus", far, "--text", text, "--text", text, *words, "--max-ppl-ratio", 99, "--json")
    assert code == 0, err
    said = json.loads(out)
    alone = [
        json.loads(run(one, "--text", text, *words, "--max-ppl-ratio", 99, "--json")[1])["against"]["divergence"]
        for one in (near, far)
    ]
    first, second = said["against"]["divergence"], said["versus"]["divergence"]
    assert first["kl"]["value"] == pytest.approx(alone[0]["kl"]["value"])  # twice the same text
    assert second["kl"]["value"] == pytest.approx(alone[1]["kl"]["value"])
    difference = said["versus"]["difference"]["kl"]
    assert difference["value"] == pytest.approx(first["kl"]["value"] - second["kl"]["value"])
    assert said["versus"]["real"] and said["versus"]["deviations"] == pytest.approx(
        -difference["value"] / difference["error"]
    )
    assert said["versus"]["difference"]["closer"]["value"] > 0.5
    _, shown, _ = run(near, "--versus", far, "--text", text, *words, "--max-ppl-ratio", 99)
    assert "the first is better, by" in shown
    _, shown, _ = run(near, "--versus", near, "--text", text, *words, "--max-ppl-ratio", 99)
    assert "no difference that is more than chance" in shown


def test_versus_needs_a_reference(tiny):
    code, _, err = run(tiny, "--versus", tiny)
    assert code == 2 and "--versus goes with --against" in err


def test_the_worst_hundredth_varies_as_it_does_when_drawn_again():
    """The bootstrap's error beside that of many texts."""
    rng = np.random.default_rng(1)
    drawn = rng.exponential(size=(300, 1000))
    comparison = Comparison()
    comparison.divergences = [drawn[0]]
    comparison.agreed = [np.ones(1000, bool)]
    for one in (comparison.model, comparison.reference):
        one.costs = [np.zeros(1000)]
    assert comparison.measure().kl_99_error == pytest.approx(np.quantile(drawn, 0.99, axis=1).std(), rel=0.4)
