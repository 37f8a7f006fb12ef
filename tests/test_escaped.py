"""BPE by rules on text whose spaces are ▁: what llama.cpp makes of it is what `tokenizers` makes of the files."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from requant.tokenizers import to_ggml, to_hf
from requant.verify.llama_cpp import LlamaCpp
from tests.tokenizer_files import TEXTS, exported, folder, loaded, plain, vocabulary_gguf

WORDS = [
    "the cat sat on the mat and the other cat sat there",
    "lower lowest newer newest wider widest",
    "für die Grüße über der Straße",
    "नमस्ते दुनिया नमस्ते भारत",
    "you and I are here 12 123 1234",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


@pytest.fixture(scope="module")
def document():
    """A tokenizer of this kind, whose rules are no scores: a longer token may be made before a shorter one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *alphabet], show_progress=False)
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    found = json.loads(tokenizer.to_str())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] in SPECIAL]
    return found


def by_words(document):
    """A tokenizer that puts a space before the text and merges within words."""
    words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {**document, "normalizer": None, "pre_tokenizer": words}


@pytest.mark.parametrize(
    ("architecture", "prefix", "name"),
    [
        ("sarvam_moe", False, "sarvam-moe"),
        ("modernbert", True, "mmbert"),
        ("modernbert", False, "granite-embed-multi-311m"),
    ],
)
def test_the_ids_are_those_of_tokenizers(document, architecture, prefix, name, tmp_path):
    document = by_words(document) if prefix else document
    files = folder({"tokenizer.json": json.dumps(document)}, architecture=architecture)
    outcome = to_ggml(files, None)
    assert outcome.losses == ()
    assert outcome.metadata["tokenizer.ggml.pre"].value == name
    tokenizer = Tokenizer.from_str(json.dumps(document))
    path = vocabulary_gguf(outcome.metadata, tmp_path / "m.gguf")
    texts = [text for text in (*TEXTS, *WORDS) if "\n" not in text]
    with LlamaCpp(path, vocab_only=True) as model:
        for text in texts:
            ids = model.tokenize(text, add_special=False, parse_special=False)
            assert ids == tokenizer.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(
    ("architecture", "prefix"),
    [("sarvam_moe", False), ("modernbert", False), ("modernbert", True), ("gemma4_text", False)],
)
def test_the_way_back_has_the_same_rules(document, architecture, prefix):
    document = by_words(document) if prefix else document
    files = folder({"tokenizer.json": json.dumps(document)}, architecture=architecture)
    outcome = to_ggml(files, None)
    back = to_hf(outcome.metadata)
    tokenizer, ours = Tokenizer.from_str(json.dumps(document)), loaded(exported(back))
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).ids
    again = replace(exported(back), architecture=architecture)
    assert (
        plain(to_ggml(again, None).metadata)["tokenizer.ggml.merges"]
        == plain(outcome.metadata)["tokenizer.ggml.merges"]
    )
