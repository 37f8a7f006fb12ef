"""A pre-tokenizer is known by what it does: however it is written, and whatever tokens were added."""

import itertools
import json

import pytest
from tokenizers import Tokenizer

from requant.losses import LossKind
from requant.patterns import Patience
from requant.tokenizers import to_ggml
from requant.tokenizers.pre_tokenizers import BY_NAME, GPT2, LLAMA3, PRE_TOKENIZERS, QWEN2
from requant.tokenizers.splitting import ALPHABET, Split, probes, run
from tests.tokenizer_files import folder

LETTERS = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]


def tokenizer(pre_tokenizer, *, normalizer=None, added=(), **model):
    """A tokenizer.json of 96 letters and one merge."""
    vocab = {letter: index for index, letter in enumerate([*LETTERS, "ab"])}
    return {
        "version": "1.0",
        "added_tokens": [{"id": len(vocab) + i, **token} for i, token in enumerate(added)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"], **model},
    }


def splits(*patterns, behavior="Isolated", invert=False):
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": behavior, "invert": invert} for p in patterns]
    return {"type": "Sequence", "pretokenizers": [*steps, byte_level()]}


def byte_level(use_regex=False, add_prefix_space=False):
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def converted(document, config=None, rows=None):
    files = {"tokenizer.json": json.dumps(document), "tokenizer_config.json": json.dumps(config or {})}
    outcome = to_ggml(folder(files), rows)
    return outcome.metadata["tokenizer.ggml.pre"].value, outcome


def test_probes_tell_all_behaviours_apart():
    behaviours = {row.splits: row.name for row in PRE_TOKENIZERS if row.recognized}
    cuts = {name: [run(tuple(map(Split, s)), text, Patience()) for text in probes()] for s, name in behaviours.items()}
    alike = [(a, b) for a, b in itertools.combinations(cuts, 2) if cuts[a] == cuts[b]]
    assert alike == []


def test_probes_use_only_letters_that_are_simulated():
    assert set("".join(probes())) <= set(ALPHABET)


def test_no_name_stands_for_two_rows():
    names = [name for row in PRE_TOKENIZERS for name in (row.name, *row.aliases)]
    assert sorted(names) == sorted(BY_NAME)


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_tokenizers_cuts_probes_as_the_simulation_does(row):
    document = tokenizer(splits(*row.splits), ignore_merges=row.ignore_merges)
    document["pre_tokenizer"]["pretokenizers"].pop()  # letters instead of bytes, to compare texts
    theirs = Tokenizer.from_str(json.dumps(document)).pre_tokenizer
    for text in probes():
        assert [piece for piece, _ in theirs.pre_tokenize_str(text)] == run(
            tuple(map(Split, row.splits)), text, Patience()
        )


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "config", "name"),
    [
        (byte_level(use_regex=True), {}, {}, "gpt-2"),
        (splits(GPT2), {}, {}, "gpt-2"),
        (splits(GPT2.removesuffix(r"|\s+")), {}, {}, "gpt-2"),
        (splits(LLAMA3), {"ignore_merges": True}, {}, "llama-bpe"),
        (splits(LLAMA3, behavior="Removed", invert=True), {"ignore_merges": True}, {}, "llama-bpe"),
        (
            splits(LLAMA3.replace("'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)")),
            {"ignore_merges": True},
            {},
            "llama-bpe",
        ),
        (splits(LLAMA3), {}, {}, "smaug-bpe"),
        (splits(QWEN2), {}, {"clean_up_tokenization_spaces": False}, "qwen2"),
        (splits(QWEN2.replace(r"\p{N}|", "[0-9\\p{N}]|")), {}, {}, "qwen2"),
        (splits(QWEN2.replace(r"[^\r\n\p{L}\p{N}]?", r"[^\r\n\p{L}\p{N}]?+")), {}, {}, "qwen2"),
    ],
)
def test_one_behaviour_written_in_several_ways(pre_tokenizer, model, config, name):
    document = tokenizer(pre_tokenizer, **model)
    Tokenizer.from_str(json.dumps(document))  # the official library takes it too
    found, outcome = converted(document, config)
    assert found == name
    assert outcome.losses == ()


def test_digits_and_bytes_of_smollm_are_told_from_starcoders_by_how_text_is_cleaned():
    steps = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)],
    }
    assert converted(tokenizer(steps), {"clean_up_tokenization_spaces": False})[0] == "smollm"
    assert converted(tokenizer(steps), {"clean_up_tokenization_spaces": True})[0] == "starcoder"
    nfc = tokenizer(steps, normalizer={"type": "NFC"})
    assert converted(nfc, {"clean_up_tokenization_spaces": False})[0] == "command-r"


def test_a_fine_tune_with_added_tokens_keeps_its_name():
    added = [{"content": "<|tool|>", "special": True}, {"content": "<think>", "special": False}]
    name, outcome = converted(tokenizer(splits(QWEN2), added=added), rows=110)
    assert name == "qwen2"
    assert outcome.losses == ()
    types, tokens = (list(outcome.metadata[f"tokenizer.ggml.{key}"].value) for key in ("token_type", "tokens"))
    assert tokens[97:] == ["<|tool|>", "<think>", *(f"[PAD{i}]" for i in range(99, 110))]
    assert types[97:] == [3, 4, *[5] * 11]


def test_what_nothing_matches_is_told_with_an_example():
    name, outcome = converted(tokenizer(splits(r"\p{N}{1,2}|[^\s\p{N}]+|\s+")))
    (loss,) = outcome.losses
    assert loss.kind is LossKind.TOKENIZER_CHANGED
    assert loss.detail.startswith(f"no pre-tokenizer of llama.cpp does the same; the closest, {name!r}, cuts ")


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}, byte_level()]},
        splits("[[:alpha:]]+"),
        splits("(unclosed"),
        splits("a" * 5000),
    ],
)
def test_what_cannot_be_run_here_is_told(pre_tokenizer):
    name, outcome = converted(tokenizer(pre_tokenizer))
    assert name == "gpt-2"
    assert [" is not understood; llama.cpp " in loss.detail for loss in outcome.losses] == [True]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (tokenizer(byte_level(use_regex=True), normalizer={"type": "NFC"}), "does not do NFC"),
        (tokenizer(byte_level(use_regex=True), normalizer={"type": "Lowercase"}), "does not do Lowercase"),
        (tokenizer(byte_level(use_regex=True, add_prefix_space=True)), "add_prefix_space"),
        (tokenizer(byte_level(use_regex=True), ignore_merges=True), "ignore_merges"),
        (
            tokenizer(byte_level(use_regex=True), added=[{"content": "<mask>", "special": True, "lstrip": True}]),
            "keeps white space before <mask> (lstrip)",
        ),
    ],
)
def test_what_llama_cpp_does_not_do_is_told(document, said):
    _, outcome = converted(document)
    assert [said in loss.detail for loss in outcome.losses] == [True]


@pytest.mark.parametrize(
    ("kind", "row", "lost"), [("Qwen2Tokenizer", "qwen2", ["normalizer"]), ("GPT2Tokenizer", "gpt-2", [])]
)
def test_a_class_stands_for_its_normalizer_too(kind, row, lost):
    """vocab.json and merges.txt say neither how text is split nor what happens to it before."""
    vocab = {letter: index for index, letter in enumerate([*LETTERS, "ab"])}
    files = {"vocab.json": json.dumps(vocab), "merges.txt": "#version: 0.2\na b\n"}
    outcome = to_ggml(folder({**files, "tokenizer_config.json": json.dumps({"tokenizer_class": kind})}), None)
    assert outcome.metadata["tokenizer.ggml.pre"].value == row
    assert [loss.subject for loss in outcome.losses] == lost


def test_the_template_that_transformers_takes():
    """Saved by a new version into a folder of an old one: both are there, and the old one is stale."""
    files = {
        "tokenizer.json": json.dumps(tokenizer(byte_level(use_regex=True))),
        "tokenizer_config.json": '{"chat_template": "old"}',
    }
    said = {"tokenizer.chat_template": "old"}, {"tokenizer.chat_template": "new"}
    for more, want in zip(({}, {"chat_template.jinja": "new"}), said, strict=True):
        metadata = to_ggml(folder({**files, **more}), None).metadata
        assert {key: metadata[key].value for key in metadata if "chat" in key} == want
    more = {"chat_template.jinja": "new", "additional_chat_templates/rag.jinja": "r"}
    metadata = to_ggml(folder({**files, **more}), None).metadata
    assert metadata["tokenizer.chat_template"].value == "new"
    assert metadata["tokenizer.chat_template.rag"].value == "r"
    assert metadata["tokenizer.chat_templates"].value == ["rag"]
