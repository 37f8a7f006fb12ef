"""Broken tokenizer files end in an error that names the file and the item, and never in a traceback."""

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.errors import Error, FormatError, PlanError, UnsupportedError
from requant.ir import Typed
from requant.tokenizers import to_ggml, to_hf
from requant.tokenizers.sentencepiece import parse
from tests.test_tokenizer_recognize import byte_level, tokenizer
from tests.tokenizer_files import exported, folder, loaded, plain

GOOD = tokenizer(byte_level(use_regex=True))


def changed(**changes):
    """GOOD with members of the model replaced, or of the whole with a leading underscore."""
    document = copy.deepcopy(GOOD)
    for key, value in changes.items():
        (document if key.startswith("_") else document["model"])[key.lstrip("_")] = value
    return document


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (changed(vocab={"a": 0, "b": "1"}, merges=[]), "model.vocab['b'] must be a non-negative integer, found \"1\""),
        (changed(vocab={"a": 0, "b": True}, merges=[]), "model.vocab['b'] must be a non-negative integer"),
        (changed(vocab={"a": 0, "b": -1}, merges=[]), "model.vocab['b'] must be a non-negative integer, found -1"),
        (changed(vocab={"a": 0, "b": 0}, merges=[]), "model.vocab: 'a' and 'b' have the same id 0"),
        (changed(vocab=[["a", 0]], merges=[]), "model.vocab must be an object"),
        (changed(vocab={"a": 1 << 40}, merges=[]), "token ids go up to"),
        (changed(merges=["a b c"]), "model.merges[0] must be two tokens"),
        (changed(merges=["a"]), "model.merges[0] must be two tokens"),
        (changed(merges=[["a", "b"], ["a"]]), "model.merges[1] must be two tokens"),
        (changed(merges=[["a", 1]]), "model.merges[0] must be two tokens"),
        (changed(merges=["a b", ["a", "b"]]), "model.merges must be an array of strings or an array of pairs"),
        (changed(merges={"a": "b"}), "model.merges must be an array"),
        (changed(merges=["a é"]), "merges[0], 'a' + 'é': 'é' is not in the vocabulary"),
        (changed(merges=["a c"]), "merges[0], 'a' + 'c': 'ac' is not in the vocabulary"),
        (changed(_added_tokens=[{"id": 0, "content": 7}]), "added_tokens[0].content must be a string, found 7"),
        (changed(_added_tokens=[{"content": "x"}]), "added_tokens[0].id must be a non-negative integer"),
        (changed(_added_tokens=[{"id": 99, "content": "a"}]), "are both 'a'"),
        (changed(_added_tokens=[{"id": 99, "content": "x"}, {"id": 99, "content": "y"}]), "id 99 is already 'x'"),
        (changed(_added_tokens="x"), "added_tokens must be an array"),
        (changed(_pre_tokenizer=[{"type": "ByteLevel"}]), "pre_tokenizer must be an object"),
        (changed(_pre_tokenizer={"type": 5}), "must be a string, found 5"),
        (changed(_model=None), "model must be an object"),
        (changed(_added_tokens=[{"id": 99, "content": "\ud800"}]), "half of a surrogate pair"),
        ([], "the file must be an object"),
    ],
)
def test_a_broken_tokenizer_json_is_named(document, said):
    with pytest.raises(FormatError) as caught:
        to_ggml(folder({"tokenizer.json": json.dumps(document)}), None)
    assert said in str(caught.value)
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json, byte 1: invalid JSON in line 1"),
        ({"tokenizer.json": b"\xff{}"}, "tokenizer.json, byte 0: the JSON text is not UTF-8"),
        ({"tokenizer.json": "[" * 100_000}, "tokenizer.json: JSON values are nested too deeply"),
        (
            {"tokenizer.json": json.dumps(GOOD), "tokenizer_config.json": "]"},
            "tokenizer_config.json, byte 0: invalid JSON in line 1",
        ),
        (
            {"tokenizer.json": json.dumps(GOOD), "tokenizer_config.json": '{"chat_template": 3}'},
            "chat_template must be",
        ),
        (
            {"tokenizer.json": json.dumps(GOOD), "tokenizer_config.json": '{"added_tokens_decoder": {"x": {}}}'},
            "added_tokens_decoder: 'x' is not a token id",
        ),
        ({"vocab.json": '{"a": 0}'}, "vocab.json: there is no merges.txt beside it"),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\na b c\n"},
            "merges.txt: line 2: a rule must be two tokens",
        ),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "a b"},
            "merges.txt: merges[0], 'a' + 'b': 'b' is not in the vocabulary",
        ),
        ({"vocab.txt": "a\nb\na\n"}, "vocab.txt: line 3: 'a' is also in line 1"),
        ({"tokenizer.model": b"\x0a\xff"}, "tokenizer.model: not a SentencePiece model"),
        ({"tokenizer.model": b""}, "tokenizer.model: not a SentencePiece model: it has no pieces"),
    ],
)
def test_broken_files_are_named(files, said):
    with pytest.raises(FormatError) as caught:
        to_ggml(folder(files), None)
    assert said in str(caught.value)


def test_a_vocabulary_larger_than_the_embedding_is_refused_by_name():
    with pytest.raises(
        PlanError, match=r"ids up to 96 but the token embedding only 96 rows \(token 96, 'ab', has none\)"
    ):
        to_ggml(folder({"tokenizer.json": json.dumps(GOOD)}), 96)


def test_a_folder_without_tokenizer_is_refused_with_advice():
    with pytest.raises(PlanError, match="no tokenizer files") as caught:
        to_ggml(folder({"README.md": "x"}), 10)
    assert caught.value.hint


def test_models_that_llama_cpp_does_not_have_are_refused():
    for model in ({"type": "WordLevel", "vocab": {}}, {"type": "BPE", "vocab": {}, "merges": []}):
        document = {**GOOD, "model": model, "pre_tokenizer": None, "decoder": None}
        with pytest.raises(UnsupportedError):
            to_ggml(folder({"tokenizer.json": json.dumps(document)}), None)
    with pytest.raises(UnsupportedError, match="end_of_word_suffix is '</w>'"):
        to_ggml(folder({"tokenizer.json": json.dumps(changed(end_of_word_suffix="</w>"))}), None)


METADATA = to_ggml(folder({"tokenizer.json": json.dumps(GOOD)}), 100).metadata


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.tokens", None),
        ("tokenizer.ggml.tokens", Typed("str", "a")),
        ("tokenizer.ggml.tokens", Typed("[i32]", [1, 2])),
        ("tokenizer.ggml.tokens", Typed("[str]", ["a"] * 100)),
        ("tokenizer.ggml.token_type", Typed("[i32]", [1])),
        ("tokenizer.ggml.merges", None),
        ("tokenizer.ggml.add_bos_token", Typed("u32", 1)),
        ("tokenizer.ggml.pre", Typed("u32", 1)),
        ("tokenizer.chat_templates", Typed("[i32]", [1])),
    ],
)
def test_broken_metadata_is_named(key, value):
    metadata = {k: v for k, v in {**METADATA, key: value}.items() if v is not None}
    with pytest.raises(FormatError, match=key):
        to_hf(metadata)


def test_metadata_that_is_not_utf8_is_refused():
    with pytest.raises(FormatError, match="not UTF-8"):
        to_hf({**METADATA, "tokenizer.chat_template": Typed("str", "caf\udce9")})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_an_error(data):
    for name in ("tokenizer.model", "tokenizer.json", "vocab.txt"):
        with contextlib.suppress(Error):
            to_ggml(folder({name: data}), None)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_damage_to_a_sentencepiece_model_is_an_error_or_another_model(damage):
    piece = lambda text, score: b"\x0a" + bytes([len(text) + 7]) + b"\x0a" + bytes([len(text)]) + text + b"\x15" + score  # noqa: E731
    data = bytearray(b"".join(piece(bytes([97 + i]) * (1 + i % 3), b"\0\0\x80\xbf") for i in range(30)))
    for at, byte in damage:
        data[at % len(data)] = byte
    with contextlib.suppress(FormatError):
        assert parse(bytes(data), "x.model").pieces


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.sampled_from(["a", "ab", "BPE", "ByteLevel", "Sequence"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "a", "id", "content"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(list(GOOD)), _JSON, st.sampled_from([*GOOD["model"], None]))
def test_any_json_in_any_place_is_a_tokenizer_or_an_error(key, value, inner):
    document = copy.deepcopy(GOOD)
    if key == "model" and inner:
        document["model"][inner] = value
    else:
        document[key] = value
    with contextlib.suppress(Error):
        to_ggml(folder({"tokenizer.json": json.dumps(document)}), None)


@given(
    merges=st.lists(st.sampled_from(["a b", "b c", "a a", "c a"]), unique=True),
    added=st.lists(st.sampled_from(["<x>", "<|y|>", "  ", "zz"]), unique=True),
    special=st.booleans(),
    rows=st.integers(120, 130),
)
def test_small_tokenizers_survive_the_way_to_gguf_and_back(merges, added, special, rows):
    document = changed(merges=merges)
    for rule in merges:
        document["model"]["vocab"].setdefault(rule.replace(" ", ""), len(document["model"]["vocab"]))
    first = len(document["model"]["vocab"])
    document["added_tokens"] = [
        {
            "id": first + i,
            "content": text,
            "special": special,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
            "normalized": False,
        }
        for i, text in enumerate(added)
    ]
    source = folder({"tokenizer.json": json.dumps(document)})
    outcome = to_ggml(source, rows)
    back = exported(to_hf(outcome.metadata))
    assert plain(to_ggml(back, rows).metadata) == plain(outcome.metadata)
    for text in ("abcab aa<x>ca<|y|>  zz b", "a  b"):
        assert loaded(back).encode(text).ids == loaded(source).encode(text).ids
