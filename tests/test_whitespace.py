"""BPE on letters between white space: what llama.cpp makes of it is what `tokenizers` makes of the files."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from requant.tokenizers import to_ggml, to_hf
from requant.verify.llama_cpp import LlamaCpp
from tests.tokenizer_files import exported, folder, loaded, vocabulary_gguf

WORDS = ["今天 天气 不错 今天 是 星期 三", "the cat sat on the mat, the cat!", "Über den Wolken über dem Meer"]


def trained(cut, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    return tokenizer


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("cut", [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Whitespace()])
def test_the_ids_are_those_of_tokenizers(cut, lower, tmp_path):
    tokenizer = trained(cut, normalizers.Lowercase() if lower else None)
    outcome = to_ggml(folder({"tokenizer.json": tokenizer.to_str()}, architecture="bert"), None)
    assert ["letters that are no tokens" in loss.detail for loss in outcome.losses] == [True]
    assert outcome.metadata["tokenizer.ggml.model"].value == "whitespace"
    known = set("".join(outcome.metadata["tokenizer.ggml.tokens"].value[2:])) | set(" \t\n")
    texts = [*WORDS, "the  cat!!\n , sat\ton", "今天 不错, 天气!", "them at the den"]
    assert all(set(text.lower() if lower else text) <= known for text in texts)
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    with LlamaCpp(vocabulary_gguf(outcome.metadata, tmp_path / "m.gguf"), vocab_only=True) as model:
        assert [model.tokenize(text, add_special=False, parse_special=False) for text in texts] == expected
    back = loaded(exported(to_hf(outcome.metadata)))
    assert [back.encode(text, add_special_tokens=False).ids for text in texts] == expected


def test_rules_over_punctuation_and_unknown_letters_are_told():
    document = json.loads(trained(pre_tokenizers.WhitespaceSplit()).to_str())
    assert any("," in "".join(rule) and len("".join(rule)) > 1 for rule in document["model"]["merges"])
    document["pre_tokenizer"] = {"type": "Whitespace"}
    document["model"]["unk_token"] = "<s>"
    document["normalizer"] = {"type": "NFKC"}
    outcome = to_ggml(folder({"tokenizer.json": json.dumps(document)}, architecture="bert"), None)
    said = " ".join(loss.detail for loss in outcome.losses)
    assert "punctuation" in said
    assert "unknown token" in said
    assert "NFKC" in said
