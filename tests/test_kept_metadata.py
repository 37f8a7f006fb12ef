"""What a GGUF says and no folder has a place for: kept beside the weights, back in the next GGUF, or told."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from requant.architectures.carried import FILE, KEY, unpack
from requant.errors import FormatError, PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Typed
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.sources import Memory
from tests.test_heads import SMALL, saved

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<eot>", "<eom>", "<pre>", "<suf>", "<mid>"]
LETTERS = 257  # bytes and one merge


def with_tokenizer(folder, more=(), rows=None, **names):
    """A Llama with a byte-level tokenizer whose special tokens come after the letters."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(letters)}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *more])
    named = {"bos_token": "<s>", "eos_token": "</s>"} | names
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    rows = tokenizer.get_vocab_size() if rows is None else rows
    saved(folder, "LlamaForCausalLM", "LlamaConfig", vocab_size=rows, tie_word_embeddings=True)
    return folder


def to_gguf(folder, path, **request):
    plan = plan_conversion(Safetensors().read(folder), Gguf(), path, Request(**request))
    execute(plan)
    return plan


def to_folder(path, folder):
    plan = plan_conversion(Gguf().read(path), Safetensors(), folder, Request())
    execute(plan)
    return plan


KEPT = {
    **{f"tokenizer.ggml.{kind}_token_id": Typed("u32", 261 + n) for n, kind in enumerate(("eot", "eom"))},
    **{f"tokenizer.ggml.fim_{kind}_token_id": Typed("u32", 263 + n) for n, kind in enumerate(("pre", "suf", "mid"))},
    "tokenizer.ggml.suppress_tokens": Typed("[i32]", [5, 6]),
    "other.key": Typed("str", "x"),
    "other.list": Typed("[f32]", [0.5, 0.25]),
    "llama.unheard_of": Typed("u32", 7),
    "general.source.url": Typed("str", "https://example.org"),
}


@pytest.fixture
def told(tmp_path):
    """A GGUF that says all of it."""
    with_tokenizer(tmp_path / "hf")
    to_gguf(tmp_path / "hf", tmp_path / "a.gguf", key_values=tuple(KEPT.items()))
    return tmp_path / "a.gguf"


def test_what_has_no_place_comes_back(told, tmp_path):
    assert not to_folder(told, tmp_path / "back").losses
    to_gguf(tmp_path / "back", tmp_path / "b.gguf")
    before, after = Gguf().read(told).metadata, Gguf().read(tmp_path / "b.gguf").metadata
    assert {key: (t.kind, plain(t)) for key, t in after.items() if key in KEPT} == {
        key: (t.kind, plain(t)) for key, t in KEPT.items()
    }
    assert before.keys() == after.keys()


def plain(typed):
    return typed.value if isinstance(typed.value, str | int | float) else list(typed.value)


def test_turns_end_where_they_do_in_llama_cpp(told, tmp_path):
    to_folder(told, tmp_path / "back")
    config = GenerationConfig.from_pretrained(tmp_path / "back")
    assert config.eos_token_id == [258, 261, 262]  # of a text, a turn, a message
    assert config.bos_token_id == 257
    assert not config.do_sample


def test_sampling_does_not_hide_the_end(tmp_path):
    """With a generation_config.json, transformers no longer looks into config.json."""
    with_tokenizer(tmp_path / "hf")
    to_gguf(tmp_path / "hf", tmp_path / "a.gguf", key_values=(("general.sampling.top_k", Typed("i32", 5)),))
    to_folder(tmp_path / "a.gguf", tmp_path / "back")
    config = GenerationConfig.from_pretrained(tmp_path / "back")
    assert (config.top_k, config.eos_token_id, config.do_sample) == (5, 258, True)


def test_without_a_vocabulary_no_ids_of_tokens_come_back(told, tmp_path):
    to_folder(told, tmp_path / "back")
    to_gguf(tmp_path / "back", tmp_path / "b.gguf", vocabulary=False)
    keys = Gguf().read(tmp_path / "b.gguf").metadata.keys()
    assert {key for key in keys if key.startswith("tokenizer.")} == {"tokenizer.ggml.model"}
    assert "other.key" in keys


def test_a_text_that_is_too_long_is_told(tmp_path):
    with_tokenizer(tmp_path / "hf")
    long = (("other.key", Typed("str", "x" * (1 << 20) + "x")),)
    to_gguf(tmp_path / "hf", tmp_path / "a.gguf", key_values=long)
    (loss,) = to_folder(tmp_path / "a.gguf", tmp_path / "back").losses
    assert (loss.kind, loss.subject) == (LossKind.METADATA_DROPPED, "other.key")


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("tokenizer.ggml.eot_token_id", "u32", 300),
        ("tokenizer.ggml.tokens", "[str]", ["a"]),
        ("tokenizer.chat_template", "str", "x"),
        ("qwen2.block_count", "u32", 3),
        ("general.architecture", "str", "qwen2"),
        ("split.count", "u16", 3),
        ("other.key", "u32", -1),
        ("other.key", "strange", 1),
    ],
)
def test_what_strangers_put_there_is_not_believed(key, kind, value):
    text = json.dumps({key: [kind, value], "other.sound": ["u8", 1]})
    for beside in (False, True):
        found, losses = unpack(holding(text, beside), "llama", 266)
        assert found == {"other.sound": Typed("u8", 1)}
        assert [loss.subject for loss in losses] == ([key] if beside and key == "other.key" else [])


def holding(text, beside):
    """A model with this in the file, or in the header of its weights."""
    metadata = {} if beside else {KEY: Typed("str", text)}
    return Checkpoint(Naming.HF, "llama", (), metadata=metadata, files={FILE: Memory(text.encode())} if beside else {})


def test_the_file_beside_the_weights_counts(told, tmp_path):
    """What saves the weights anew loses their header; people change the file, and take lines out."""
    to_folder(told, tmp_path / "back")
    kept = json.loads((tmp_path / "back" / FILE).read_text())
    assert {key: value[1] for key, value in kept.items() if key in KEPT} == {key: plain(t) for key, t in KEPT.items()}
    AutoModelForCausalLM.from_pretrained(tmp_path / "back").save_pretrained(tmp_path / "back")
    assert KEY not in Safetensors().read(tmp_path / "back").metadata
    kept["other.key"] = ["str", "y"]
    del kept["other.list"]
    (tmp_path / "back" / FILE).write_text(json.dumps(kept))
    to_gguf(tmp_path / "back", tmp_path / "b.gguf")
    found = Gguf().read(tmp_path / "b.gguf").metadata
    wanted = {key: plain(t) for key, t in KEPT.items() if key != "other.list"} | {"other.key": "y"}
    assert {key: plain(t) for key, t in found.items() if key in KEPT} == wanted
    to_folder(told, tmp_path / "with header")
    (tmp_path / "with header" / FILE).write_text("{")
    with pytest.raises(FormatError, match=FILE):
        to_gguf(tmp_path / "with header", tmp_path / "c.gguf")
    (tmp_path / "with header" / FILE).unlink()
    to_gguf(tmp_path / "with header", tmp_path / "c.gguf")
    assert plain(Gguf().read(tmp_path / "c.gguf").metadata["other.key"]) == "x"


def test_weights_without_a_folder_keep_it_in_their_header(told, tmp_path):
    losses = to_folder(told, tmp_path / "one.safetensors").losses
    assert losses
    assert FILE not in {loss.subject for loss in losses}
    assert KEY in Safetensors().read(tmp_path / "one.safetensors").metadata


def test_a_token_beyond_the_embedding_is_left_out_and_told(tmp_path):
    """The published Gemma 3 1B: 262,145 tokens for 262,144 rows."""
    with_tokenizer(tmp_path / "hf", more=["<image>"], rows=LETTERS + len(SPECIAL))
    plan = to_gguf(tmp_path / "hf", tmp_path / "a.gguf")
    assert [(loss.kind, loss.subject) for loss in plan.losses] == [(LossKind.TOKENIZER_CHANGED, "<image>")]
    tokens = list(Gguf().read(tmp_path / "a.gguf").metadata["tokenizer.ggml.tokens"].value)
    assert tokens[LETTERS:] == SPECIAL


def test_so_is_one_that_the_vocabulary_lists_too(tmp_path):
    with_tokenizer(tmp_path / "hf", more=["<image>"], rows=LETTERS + len(SPECIAL))
    path = tmp_path / "hf/tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["<image>"] = LETTERS + len(SPECIAL)
    path.write_text(json.dumps(document))
    assert [loss.subject for loss in to_gguf(tmp_path / "hf", tmp_path / "a.gguf").losses] == ["<image>"]


def test_a_token_of_the_base_vocabulary_needs_its_row(tmp_path):
    with_tokenizer(tmp_path / "hf", rows=LETTERS - 1)
    with pytest.raises(PlanError, match="'th', has none"):
        to_gguf(tmp_path / "hf", tmp_path / "a.gguf")


def test_an_end_beyond_the_embedding_is_refused(tmp_path):
    with_tokenizer(tmp_path / "hf", more=["<end>"], rows=LETTERS + len(SPECIAL), eos_token="<end>")
    with pytest.raises(PlanError, match="none for '<end>'"):
        to_gguf(tmp_path / "hf", tmp_path / "a.gguf")


def test_rows_without_tokens_are_padding(tmp_path):
    """An embedding rounded up to 64 rows, as trainers do."""
    with_tokenizer(tmp_path / "hf", rows=320)
    assert not to_gguf(tmp_path / "hf", tmp_path / "a.gguf").losses
    metadata = Gguf().read(tmp_path / "a.gguf").metadata
    assert list(metadata["tokenizer.ggml.tokens"].value)[-1] == "[PAD319]"
    assert list(metadata["tokenizer.ggml.token_type"].value)[-1] == 5


def test_an_embedding_resized_without_its_config(tmp_path):
    with_tokenizer(tmp_path / "hf", rows=320)
    path = tmp_path / "hf/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": SMALL["vocab_size"]}))
    with pytest.raises(PlanError, match=r"vocab_size is 96, but 'model\.embed_tokens\.weight' has 320 rows"):
        to_gguf(tmp_path / "hf", tmp_path / "a.gguf")
