"""`tiktoken.model` of Kimi and `qwen.tiktoken`: ranks, and the merges that they stand for.

The ids of both were compared once with tiktoken 0.12's; it is no dependency. Here they are compared with `tokenizers`',
whose own merges the ranks were made of.
"""

import base64
import json
import random

import pytest

from requant.errors import Error, FormatError, PlanError, UnsupportedError
from requant.tokenizers import to_ggml
from requant.tokenizers.byte_letters import LETTERS, written
from requant.tokenizers.pre_tokenizers import QWEN2
from requant.verify.llama_cpp import LlamaCpp
from tests.test_pre_tokenizers_runtime import KIMI, trained
from tests.tokenizer_files import TEXTS, folder, vocabulary_gguf

BYTES = {letter: bytes([byte]) for byte, letter in enumerate(LETTERS)}
KIMI_CONFIG = {
    "tokenizer_class": "TikTokenTokenizer",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "added_tokens_decoder": {
        "1500": {"content": "[BOS]", "special": True},
        "1501": {"content": "[EOS]", "special": True},
        "1502": {"content": "<|im_end|>", "special": False},
    },
}


def lines(tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def tokens_of(tokenizer):
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [b"".join(BYTES[letter] for letter in text) for text, _ in vocab]


@pytest.fixture(scope="module", params=["kimi", "qwen"])
def case(request):
    """A trained tokenizer, and the folder and rows of a model that has it."""
    tokenizer = trained((KIMI,) if request.param == "kimi" else (QWEN2,))
    ranks = lines(tokens_of(tokenizer))
    if request.param == "kimi":
        files = {"tiktoken.model": ranks, "tokenizer_config.json": json.dumps(KIMI_CONFIG)}
        return request.param, tokenizer, files, 1756
    return request.param, tokenizer, {"qwen.tiktoken": ranks}, 1800


def test_merges_and_tokens_are_those_that_made_the_ranks(case):
    name, tokenizer, files, rows = case
    outcome = to_ggml(folder(files), rows)
    values = {key.removeprefix("tokenizer.ggml."): typed.value for key, typed in outcome.metadata.items()}
    assert list(values["merges"]) == [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens, types = list(values["tokens"]), list(values["token_type"])
    assert tokens[:1500] == [written(token) for token in tokens_of(tokenizer)]
    assert len(tokens) == len(types) == rows
    if name == "kimi":
        assert tokens[1500:1504] == ["[BOS]", "[EOS]", "<|im_end|>", "<|reserved_token_1503|>"]
        assert tokens[-1] == "<|reserved_token_1755|>"
        assert types == [1] * 1500 + [3] * 256
        assert (values["pre"], values["bos_token_id"], values["eos_token_id"]) == ("kimi-k2", 1500, 1501)
        assert outcome.losses == ()
    else:
        assert tokens[1500:1504] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"]
        assert tokens[1707:1709] == ["<|extra_204|>", "[PAD1708]"]
        assert types == [1] * 1500 + [3] * 208 + [5] * 92
        ids = [values[f"{key}_token_id"] for key in ("bos", "eos", "unknown")]
        assert (values["pre"], ids) == ("qwen2", [1500] * 3)
        assert [loss.subject for loss in outcome.losses] == ["normalizer"]


def test_llama_cpp_makes_the_same_ids(case, tmp_path):
    name, tokenizer, files, rows = case
    metadata = to_ggml(folder(files), rows).metadata
    with LlamaCpp(vocabulary_gguf(metadata, tmp_path / "m.gguf"), vocab_only=True) as runtime:
        for text in TEXTS:
            if name == "qwen" or not any(script in text for script in ("नमस्ते", "สวัสดี")):  # marks: llama.cpp's own
                assert runtime.tokenize(text, add_special=False) == tokenizer.encode(text).ids
        assert runtime.tokenize("<|im_end|>", add_special=False, parse_special=True) == [1502]


ALPHABET = [bytes([byte]) for byte in range(256)]
BROKEN = {
    "empty": b"",
    "no base64": lines(ALPHABET) + b"?? 256\n",
    "a rank left out": lines(ALPHABET) + b"YWI= 257\n",
    "a token twice": lines([*ALPHABET, b"ab", b"ab"]),
    "an empty token": lines([*ALPHABET, b""]),
    "three words": lines(ALPHABET) + b"YWI= 256 1\n",
    "no number": lines(ALPHABET) + b"YWI= \xc2\xb2\n",
    "cut": lines([*ALPHABET, b"ab"])[:-4],
    "a byte without a token": lines([*ALPHABET[1:], b"ab"]),
    "binary": random.Random(1).randbytes(5000),
    "one endless token": lines([*ALPHABET, b"ab" * 20_000]),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["tiktoken.model", "qwen.tiktoken"])
def test_what_is_none_is_refused_by_name(kind, name):
    config = json.dumps({"tokenizer_class": "TikTokenTokenizer"})
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        to_ggml(folder({name: BROKEN[kind], "tokenizer_config.json": config}), None)


def test_others_files_of_that_name_are_refused():
    with pytest.raises(UnsupportedError, match=r"tiktoken\.model: only Kimi's"):
        to_ggml(folder({"tiktoken.model": lines(ALPHABET)}), None)


def test_a_special_token_in_the_place_of_a_rank():
    config = KIMI_CONFIG | {"added_tokens_decoder": {"7": {"content": "[BOS]", "special": True}}}
    files = {"tiktoken.model": lines(ALPHABET), "tokenizer_config.json": json.dumps(config)}
    with pytest.raises(FormatError, match="token 7 is a rank"):
        to_ggml(folder(files), None)


def test_more_ranks_than_rows():
    with pytest.raises(PlanError, match="only 200 rows"):
        to_ggml(folder({"qwen.tiktoken": lines(ALPHABET)}), 200)


def test_any_damage_ends_in_an_error_or_a_tokenizer():
    noise, whole = random.Random(3), lines([*ALPHABET, b"ab", b"abc"])
    for _ in range(300):
        data = bytearray(whole)
        data[noise.randrange(len(data))] = noise.randrange(256)
        try:
            to_ggml(folder({"qwen.tiktoken": bytes(data)}), None)
        except Error as error:
            assert "qwen.tiktoken" in str(error)
