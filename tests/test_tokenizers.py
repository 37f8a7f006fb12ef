"""Tokenizers of real models: what llama.cpp makes of the metadata is what `tokenizers` makes of the files."""

import json

import pytest
import sentencepiece
import transformers

from requant.ir import Typed
from requant.sources import read
from requant.tokenizers import to_ggml, to_hf
from requant.verify.llama_cpp import LlamaCpp
from tests import models
from tests.tokenizer_files import TEXTS, exported, folder, folder_of, loaded, metadata_of, plain, vocabulary_gguf


def ids_in_llama_cpp(path, texts=TEXTS, add_special=False, parse_special=False):
    with LlamaCpp(path, vocab_only=True) as model:
        return [model.tokenize(text, add_special=add_special, parse_special=parse_special) for text in texts]


def test_smollm2_survives_the_way_to_hf_and_back():
    metadata = metadata_of(models.smollm2())
    tokenizer = to_hf(metadata)
    assert tokenizer.losses == ()
    outcome = to_ggml(exported(tokenizer), 49152)
    assert plain(outcome.metadata) == plain(metadata)
    assert outcome.losses == ()


def test_smollm2_has_the_same_ids_in_tokenizers_and_in_llama_cpp():
    path = models.smollm2()
    tokenizer = loaded(exported(to_hf(metadata_of(path))))
    assert ids_in_llama_cpp(path) == [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    chat = ["<|im_start|>user\nhi<|im_end|>\n"]
    assert ids_in_llama_cpp(path, chat, parse_special=True) == [tokenizer.encode(text).ids for text in chat]


def test_smollm2_loads_in_transformers(tmp_path):
    tokenizer = to_hf(metadata_of(models.smollm2()))
    for name, source in tokenizer.files.items():
        (tmp_path / name).write_bytes(read(source).tobytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **tokenizer.config}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    own = loaded(exported(tokenizer))
    assert [auto.encode(text) for text in TEXTS] == [own.encode(text).ids for text in TEXTS]
    assert (auto.bos_token, auto.eos_token, auto.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    chat = auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n")


_MINILM = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def minilm():
    path = models.minilm()
    return folder_of(path, _MINILM, json.loads((path / "config.json").read_text()), "bert")


def test_minilm_is_wordpiece_with_phantom_spaces():
    metadata = plain(to_ggml(minilm(), 30522).metadata)
    tokens, types = metadata["tokenizer.ggml.tokens"][1], metadata["tokenizer.ggml.token_type"][1]
    assert (tokens[101], tokens[7592], tokens[2015]) == ("[CLS]", "▁hello", "s")
    assert [types[i] for i in (0, 100, 101, 102, 103, 104)] == [3, 3, 3, 3, 3, 1]
    del metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert metadata == {  # what convert_hf_to_gguf.py --vocab-only writes, in its order
        "tokenizer.ggml.token_type_count": ("u32", 2),
        "tokenizer.ggml.model": ("str", "bert"),
        "tokenizer.ggml.pre": ("str", "jina-v2-en"),
        "tokenizer.ggml.bos_token_id": ("u32", 101),
        "tokenizer.ggml.eos_token_id": ("u32", 102),
        "tokenizer.ggml.unknown_token_id": ("u32", 100),
        "tokenizer.ggml.seperator_token_id": ("u32", 102),
        "tokenizer.ggml.padding_token_id": ("u32", 0),
        "tokenizer.ggml.mask_token_id": ("u32", 103),
        "tokenizer.ggml.add_bos_token": ("bool", True),
        "tokenizer.ggml.add_eos_token": ("bool", True),
        "tokenizer.ggml.add_sep_token": ("bool", False),
        "tokenizer.ggml.normalizer.lowercase": ("bool", True),
    }


def test_minilm_has_the_same_ids_in_tokenizers_and_in_llama_cpp(tmp_path):
    checkpoint = minilm()
    outcome = to_ggml(checkpoint, 30522)
    tokenizer = loaded(checkpoint)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    path = vocabulary_gguf(outcome.metadata, tmp_path / "minilm.gguf")
    # llama.cpp takes away spacing marks as if they were accents, and leaves Hangul syllables whole, unlike NFD
    texts = [text for text in TEXTS if "한" not in text and "ह" not in text]
    assert ids_in_llama_cpp(path, texts, add_special=True) == [tokenizer.encode(text).ids for text in texts]
    again = loaded(exported(to_hf(outcome.metadata)))
    assert [again.encode(text).ids for text in TEXTS] == [tokenizer.encode(text).ids for text in TEXTS]


def wordllama():
    path = models.wordllama().parent.parent / "tokenizers/l2_supercat_tokenizer_config.json"
    return folder({"tokenizer.json": path.read_bytes()})


def test_a_llama_2_tokenizer_json_gets_scores_that_llama_cpp_merges_by(tmp_path):
    checkpoint = wordllama()
    outcome = to_ggml(checkpoint, 32000)
    assert outcome.losses == ()
    assert outcome.metadata["tokenizer.ggml.model"] == Typed("str", "llama")
    assert outcome.metadata["tokenizer.ggml.add_bos_token"] == Typed("bool", True)
    tokenizer = loaded(checkpoint)
    path = vocabulary_gguf(outcome.metadata, tmp_path / "llama.gguf")
    assert ids_in_llama_cpp(path, add_special=True) == [tokenizer.encode(text).ids for text in TEXTS]
    again = loaded(exported(to_hf(outcome.metadata)))
    assert [again.encode(text).ids for text in TEXTS] == [tokenizer.encode(text).ids for text in TEXTS]


def trained(model_type, tmp_path, **options):
    """A SentencePiece model of a few hundred pieces, as the library itself writes it."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(" ".join(text.split()) for text in TEXTS * 20) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / model_type),
        model_type=model_type,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    data = (tmp_path / f"{model_type}.model").read_bytes()
    return data, sentencepiece.SentencePieceProcessor(model_proto=data)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_bpe_has_the_same_ids_in_sentencepiece_and_in_llama_cpp(tmp_path, prefix):
    data, processor = trained(
        "bpe",
        tmp_path,
        vocab_size=900,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    outcome = to_ggml(folder({"tokenizer.model": data}), processor.vocab_size() + 3)
    metadata = plain(outcome.metadata)
    assert outcome.losses == ()
    count = processor.vocab_size()
    assert metadata["tokenizer.ggml.tokens"][1][:count] == [processor.id_to_piece(i) for i in range(count)]
    assert metadata["tokenizer.ggml.scores"][1][:count] == [processor.get_score(i) for i in range(count)]
    assert metadata["tokenizer.ggml.tokens"][1][count:] == [f"[PAD{count + i}]" for i in range(3)]
    path = vocabulary_gguf(outcome.metadata, tmp_path / "bpe.gguf")
    assert ids_in_llama_cpp(path) == [processor.encode(text) for text in TEXTS]
    again = loaded(exported(to_hf(outcome.metadata)))
    assert [again.encode(text, add_special_tokens=False).ids for text in TEXTS] == [processor.encode(t) for t in TEXTS]


def test_symbols_that_a_sentencepiece_model_defines_are_found_in_the_text(tmp_path):
    """Where no JSON file declares them either: convert_hf_to_gguf.py makes normal tokens of them, which none finds."""
    data, processor = trained(
        "bpe",
        tmp_path,
        vocab_size=900,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["[tool]", "qzqz", "\u2581\u2581\u2581"],
    )
    outcome = to_ggml(folder({"tokenizer.model": data}), None)
    assert outcome.losses == ()
    path = vocabulary_gguf(outcome.metadata, tmp_path / "bpe.gguf")
    texts = ["[tool]x [tool]", "aqzqzqz", "a   b    c", "no symbols"]
    want = [processor.encode(text) for text in texts]
    assert ids_in_llama_cpp(path, texts) == want
    again = loaded(exported(to_hf(outcome.metadata)))
    assert [again.encode(text, add_special_tokens=False).ids for text in texts] == want


def test_a_unigram_model_has_the_same_ids_in_sentencepiece_and_in_llama_cpp(tmp_path):
    data, processor = trained("unigram", tmp_path, vocab_size=500, unk_id=2, eos_id=1, bos_id=-1, pad_id=0)
    outcome = to_ggml(folder({"spiece.model": data}, architecture="t5"), None)
    assert outcome.metadata["tokenizer.ggml.model"] == Typed("str", "t5")
    path = vocabulary_gguf(outcome.metadata, tmp_path / "unigram.gguf")
    want = [processor.encode(text) for text in TEXTS]
    assert ids_in_llama_cpp(path) == want
    again = exported(to_hf(outcome.metadata))
    tokenizer = loaded(again)
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS] == want
    assert (
        plain(to_ggml(again, None).metadata)["tokenizer.ggml.scores"]
        == plain(outcome.metadata)["tokenizer.ggml.scores"]
    )
