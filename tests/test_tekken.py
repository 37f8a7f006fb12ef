"""`tekken.json` alone, as Mistral publishes several models: llama.cpp cuts text as tiktoken's algorithm does.

That the tokens of the two files in mistral-common 1.13.1 are its own, and that llama.cpp then makes the same ids of
text, was shown once with that package; it is no dependency.
"""

import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.errors import FormatError
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.tokenizers import to_ggml
from requant.tokenizers.byte_letters import written
from requant.tokenizers.pre_tokenizers import TEKKEN
from requant.verify.llama_cpp import LlamaCpp
from tests.test_heads import saved
from tests.test_kept_metadata import to_gguf

SPECIAL = ["<unk>", "<s>", "</s>", "[INST]"]
WORDS = [bytes([byte]) for byte in range(256)]
WORDS += [
    b"th",
    b"he",
    b" t",
    b"the",
    b" the",
    b"er",
    b"  ",
    b"aa",
    b"aaa",
    b"\xc3\xa9",
    b"there",
    b"22",
    b"ab",
    b"abab",
]
RANKS = {word: n for n, word in enumerate(WORDS)}


def document(**changes):
    config = {
        "pattern": TEKKEN,
        "num_vocab_tokens": len(WORDS),
        "default_vocab_size": len(WORDS) + 5,
        "default_num_special_tokens": 5,
        "version": "v7",
    }
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(word).decode(), "token_str": None} for n, word in enumerate(WORDS)
    ]
    special = [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(SPECIAL)]
    return {"config": config, "vocab": vocab, "special_tokens": special, **changes}


def folder_of(path, contents):
    saved(
        path,
        "MistralForCausalLM",
        "MistralConfig",
        vocab_size=len(WORDS) + 5,
        sliding_window=None,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    (path / "tekken.json").write_text(json.dumps(contents))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("tekken")
    plan = to_gguf(folder_of(root / "hf", document()), root / "m.gguf")
    assert not plan.losses
    return root / "m.gguf"


def tiktoken(piece):
    """The pair whose whole has the lowest rank becomes one, the first of several; a piece that is a token stays."""
    if piece in RANKS:
        return [RANKS[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(RANKS[a + b], n) for n, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in RANKS]
        if not pairs:
            return [RANKS[part] for part in parts]
        _, n = min(pairs)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


def test_what_the_file_says(model):
    metadata = Gguf().read(model).metadata
    tokens = list(metadata["tokenizer.ggml.tokens"].value)
    assert tokens[:5] == [*SPECIAL, "<SPECIAL_4>"]
    assert tokens[5:] == [written(word) for word in WORDS]
    assert list(metadata["tokenizer.ggml.token_type"].value) == [3] * 5 + [1] * len(WORDS)
    ids = {key: metadata[f"tokenizer.ggml.{key}_token_id"].value for key in ("bos", "eos", "unknown")}
    assert ids == {"bos": 1, "eos": 2, "unknown": 0}
    assert metadata["tokenizer.ggml.pre"].value == "tekken"
    assert metadata["tokenizer.ggml.add_bos_token"].value is True
    merges = list(metadata["tokenizer.ggml.merges"].value)
    assert merges[0] == "t h"
    assert [rule for rule in merges if rule.replace(" ", "") == "the"] == ["t he", "th e"]  # by rank of their parts


def test_llama_cpp_cuts_as_tiktoken(model):
    import regex

    @given(
        st.lists(st.sampled_from(["the", " the", "there", "aaaa", "é", "222", " ", "ababab", "\n", "x", "[INST", "ž"]))
    )
    def check(parts):
        text = "".join(parts)
        wanted = [n + 5 for piece in regex.findall(TEKKEN, text) for n in tiktoken(piece.encode())]
        assert runtime.tokenize(text, add_special=False) == wanted

    with LlamaCpp(model, vocab_only=True) as runtime:
        check()
        assert runtime.tokenize("[INST]the", parse_special=True) == [1, 3, RANKS[b"the"] + 5]


BROKEN = {
    "a rank twice": {"vocab": [{"rank": 0, "token_bytes": "YQ=="}] * (len(WORDS))},
    "no base64": {"vocab": [{"rank": n, "token_bytes": "?"} for n in range(len(WORDS))]},
    "too few": {"vocab": document()["vocab"][:-1]},
    "not bytes first": {
        "vocab": [{"rank": n, "token_bytes": base64.b64encode(b"%d" % n).decode()} for n in range(len(WORDS))]
    },
    "no vocab": {"vocab": None},
    "a list": {"config": []},
    "special beyond": {"special_tokens": [{"rank": 5, "token_str": "x"}]},
    "negative": {"config": {"pattern": "a", "default_vocab_size": 3, "default_num_special_tokens": 5}},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_none_is_refused(kind, tmp_path):
    folder = folder_of(tmp_path / "hf", document(**BROKEN[kind]))
    with pytest.raises(FormatError, match=r"tekken\.json"):
        to_ggml(Safetensors().read(folder), None)


def test_control_tokens_that_are_not_listed(tmp_path):
    """Files before version 7."""
    contents = document(special_tokens=None)
    contents["config"] |= {"default_num_special_tokens": 30, "default_vocab_size": len(WORDS) + 30}
    folder = folder_of(tmp_path / "hf", contents)
    outcome = to_ggml(Safetensors().read(folder), len(WORDS) + 30)
    tokens = outcome.metadata["tokenizer.ggml.tokens"].value
    assert (tokens[1], tokens[11], tokens[17], tokens[29]) == ("<s>", "<pad>", "[SYSTEM_PROMPT]", "<SPECIAL_29>")
    assert outcome.metadata["tokenizer.ggml.padding_token_id"].value == 11
