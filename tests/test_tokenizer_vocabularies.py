"""llama.cpp's own vocabularies: written as tokenizer.json they give the ids that llama.cpp expects of Hugging Face."""

import pytest

from requant.tokenizers import to_ggml, to_hf
from tests import models
from tests.tokenizer_files import exported, loaded, metadata_of, plain

#: Every vocabulary of the sdist that comes with a list of texts and one of ids.
NAMES = (
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
)

#: What is not as it was after GGUF -> HF -> GGUF, and why.
CHANGED = {
    # the default of llama.cpp is written out
    "llama-bpe": {"tokenizer.ggml.add_bos_token"},
    # tokens that look special are control tokens since these files were made
    "command-r": {"tokenizer.ggml.token_type"},
    "deepseek-coder": {"tokenizer.ggml.token_type"},
    # said for every llama with as many rows, as the reference does
    "starcoder": {"tokenizer.ggml.add_bos_token"},
    # other names of the same pre-tokenizer
    "mpt": {"tokenizer.ggml.pre"},
    "refact": {"tokenizer.ggml.pre"},
    # scores are ranks of rules: the order is the same, the numbers are not
    "llama-spm": {"tokenizer.ggml.scores"},
    "phi-3": {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"},
    # only "bert" is written today; gemma4 is its own model only where config.json says so
    "bert-bge": {
        "tokenizer.ggml.pre",
        "tokenizer.ggml.token_type_count",
        "tokenizer.ggml.cls_token_id",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.normalizer.lowercase",
    },
    "gemma-4": {
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type",
    },
}


def vocabulary(name):
    return models.llama_cpp_sources() / "models" / f"ggml-vocab-{name}.gguf"


@pytest.mark.slow
def test_the_names_are_all_there_are():
    folder = vocabulary("gpt-2").parent
    assert tuple(sorted(path.name[11:-9] for path in folder.glob("*.gguf.inp"))) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_written_as_tokenizer_json_gives_the_expected_ids(name):
    path = vocabulary(name)
    metadata = metadata_of(path)
    folder = exported(to_hf(metadata))
    tokenizer = loaded(folder)
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [[int(i) for i in line.split()] for line in path.with_name(path.name + ".out").read_text().splitlines()]
    texts = texts[: len(expected)]  # the last separator ends the file
    assert len(expected) >= 40
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == expected
    before, after = plain(metadata), plain(to_ggml(folder, len(metadata["tokenizer.ggml.tokens"].value)).metadata)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == CHANGED.get(
        name, set()
    )
