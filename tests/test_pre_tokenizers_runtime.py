"""Pre-tokenizers whose models are too large to have here: llama.cpp makes the ids that `tokenizers` makes of text."""

import json

import pytest
import regex
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from requant.tokenizers import to_ggml
from requant.tokenizers.pre_tokenizers import BY_NAME
from requant.tokenizers.splitting import probes
from requant.verify.llama_cpp import LlamaCpp
from tests.tokenizer_files import TEXTS, folder, vocabulary_gguf

_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = (rf"[\p{{{a}}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]" for a in (r"Lu}\p{Lt", "Ll"))
_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#: As Kimi's own code writes it, with intersections of sets.
KIMI = (
    rf"[\p{{Han}}]+|{_LETTERS}{_UPPER}*{_LOWER}+{_ENGLISH}|{_LETTERS}{_UPPER}+{_LOWER}*{_ENGLISH}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(patterns):
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    tokenizer.train_from_iterator([*TEXTS, *probes()], trainer)
    return tokenizer


@pytest.mark.parametrize(
    ("name", "patterns", "known"),
    [
        # llama.cpp's hand-written version counts no marks as letters
        ("kimi-k2", (KIMI,), r"\p{M}"),
        ("k2-horizon", BY_NAME["k2-horizon"].splits, r"$^"),
        # llama.cpp looks at white space and the digits after it as one piece
        ("afmoe", BY_NAME["afmoe"].splits, r"\s\s\p{N}"),
    ],
)
def test_llama_cpp_cuts_as_the_tokenizer(name, patterns, known, tmp_path):
    """known: texts in which llama.cpp differs by its own doing, whatever the file says."""
    tokenizer = trained(patterns)
    outcome = to_ggml(folder({"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps({})}), None)
    assert outcome.metadata["tokenizer.ggml.pre"].value == name
    assert outcome.losses == ()
    with LlamaCpp(vocabulary_gguf(outcome.metadata, tmp_path / "m.gguf"), vocab_only=True) as runtime:
        different = [
            text
            for text in (*TEXTS, *probes())
            if runtime.tokenize(text, add_special=False) != tokenizer.encode(text).ids
        ]
    assert [text for text in different if not regex.search(known, text)] == []
    assert len(different) < 15
