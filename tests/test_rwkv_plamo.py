"""Tokenizers with files of their own: RWKV's vocabulary of bytes, and PLaMo's pieces with scores.

llama.cpp must make of a text what the formats mean: RWKV takes the longest token at each place, PLaMo the pieces whose
scores add up to most. Of RWKV's published vocabulary (PyPI: rwkv 0.8.32) and of all texts here, llama.cpp's ids were
those of that package's own tokenizer.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.errors import FormatError
from requant.tokenizers import to_ggml
from requant.tokenizers.plamo import BYTES
from requant.verify.llama_cpp import LlamaCpp
from tests.tokenizer_files import folder, vocabulary_gguf

WORDS = [bytes([byte]) for byte in range(256)]
WORDS += [
    b"th",
    b"the",
    b" the",
    b"he",
    b"er",
    b"\n\n",
    b"\t\t",
    "é".encode(),
    "你好".encode(),
    b"'",
    b'"\\',
    b"there",
][:9]
WORDS += [b'"\\', b"there"]
TEXTS = ["the other theatre", "\n\n\ta\\ \"\\ 'x'", "é 你好 🚀", "there there\n\n\n"]


def lines(words=WORDS):
    return "".join(f"{n} {_said(word)!r} {len(word)}\n" for n, word in enumerate(words, 1))


def _said(word):
    """Texts as texts, where they are any."""
    try:
        return word.decode()
    except UnicodeDecodeError:
        return word


def rwkv(text, rows=None):
    return to_ggml(folder({"rwkv_vocab_v20230424.txt": text}, architecture="rwkv7"), rows)


@pytest.fixture(scope="module")
def rwkv_model(tmp_path_factory):
    outcome = rwkv(lines())
    assert not outcome.losses
    path = vocabulary_gguf(outcome.metadata, tmp_path_factory.mktemp("rwkv") / "m.gguf")
    with LlamaCpp(path, vocab_only=True) as model:
        yield model


def longest(text):
    data, found = text.encode(), []
    while data:
        word = max((word for word in WORDS if data.startswith(word)), key=len)
        found.append(1 + WORDS.index(word))
        data = data[len(word) :]
    return found


@given(text=st.text(max_size=30) | st.sampled_from(TEXTS))
def test_rwkv_takes_the_longest_token(rwkv_model, text):
    text = text.replace("\0", "")  # which ends a text in C
    assert rwkv_model.tokenize(text, add_special=False, parse_special=False) == longest(text)


def test_rwkv_fills_the_embedding_and_ends_turns():
    said = {key: typed.value for key, typed in rwkv(lines(), 300).metadata.items()}
    assert said["tokenizer.ggml.tokens"][268:270] == ["[PAD268]", "[PAD269]"]
    assert said["tokenizer.ggml.eot_token_id"] == 1 + WORDS.index(b"\n\n")
    assert (said["tokenizer.ggml.bos_token_id"], said["tokenizer.ggml.eos_token_id"]) == (0, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 'a' 2", "line 1"),
        ("0 'a' 1", "above 0"),
        ("1 open('x') 1", "line 1"),
        ("1 a", "line 1"),
        ("1 'a' 1\n2 'a' 1", "line 2"),
        ("1 'a' 1\n1 'b' 1", "one id"),
        ("1 " + "(" * 4000 + " 1", "line 1"),
    ],
)
def test_lines_that_are_none_are_named(line, said):
    with pytest.raises(FormatError, match=said):
        rwkv(line)


PIECES = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>", "<|plamo:op|>"]
SCORED = {"the": -2.0, "t": -3.0, "he": -1.5, "h": -3.0, "e": -3.0, " ": -1.0, "ather": -2.5, "a": -3.0, "r": -3.0}
SCORED |= {"her": -1.25, "at": -1.5, "日本": -2.0, "本": -1.0}


def jsonl(scored=SCORED, more=()):
    entries = [[piece, 0.0, "UNKNOWN" if n == 0 else "NORMAL"] for n, piece in enumerate(PIECES)]
    entries += [[text, 0.0, "BYTE"] for text in BYTES] + [[piece, score, "NORMAL"] for piece, score in scored.items()]
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in [*entries, *more])


def plamo(text, rows=None):
    return to_ggml(folder({"tokenizer.jsonl": text}, architecture="plamo2"), rows)


def best(text):
    """The pieces whose scores add up to most: each the way on from the end."""
    ids = {piece: 5 + 256 + n for n, piece in enumerate(SCORED)}
    ways = {len(text): (0.0, [])}
    for start in range(len(text) - 1, -1, -1):
        steps = [
            (score + ways[start + len(piece)][0], [ids[piece], *ways[start + len(piece)][1]])
            for piece, score in SCORED.items()
            if text.startswith(piece, start)
        ]
        ways[start] = max(steps)
    return ways[0][1]


@pytest.mark.parametrize("text", ["the father the", "atthe heather", "日本 本", "t he r"])
def test_plamo_takes_the_best_pieces(text, tmp_path):
    text = text.replace("f", "")
    outcome = plamo(jsonl())
    assert not outcome.losses
    path: Path = vocabulary_gguf(outcome.metadata, tmp_path / "m.gguf")
    with LlamaCpp(path, vocab_only=True) as model:
        assert model.tokenize(text, add_special=False, parse_special=False) == best(text)


def test_plamo_says_what_ends_a_turn():
    said = {key: typed.value for key, typed in plamo(jsonl(), 300).metadata.items()}
    assert said["tokenizer.ggml.eot_token_id"] == 4
    assert [said["tokenizer.ggml.token_type"][n] for n in (0, 1, 4, 5, 261, 299)] == [2, 3, 3, 6, 1, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a"]\n', "a piece and its score"),
        ('["a", "x"]\n', "a number"),
        ('["a", 1]\n["a", 2]\n', "line 2"),
        ("{}\n", "an array"),
        ("[\n", "1"),
        (jsonl().replace('"<0x41>", 0.0, "BYTE"', '"<0x41>", 0.0, "NORMAL"'), "<0x41>"),
        ("\n", "<0x00>"),
    ],
)
def test_broken_pieces_are_named(text, said):
    with pytest.raises(FormatError, match=said):
        plamo(text)
