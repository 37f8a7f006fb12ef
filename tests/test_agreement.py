"""What metadata say against the tensors: llama.cpp refuses, or misreads, whatever is found; and nothing else is."""

from dataclasses import replace

import pytest

from requant.agreement import disagreements, refuse_new
from requant.errors import PlanError, VerifyError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Typed
from requant.operations.convert import Request, plan_conversion
from requant.operations.requantize import Request as Requantization
from requant.operations.requantize import plan_requantization
from requant.verify.llama_cpp import LlamaCpp
from tests.gguf_files import save
from tests.tiny_gguf import write_tiny_llama
from tests.tiny_models import MODELS, make

#: Key -> a value that llama.cpp does not load beside the tensors of the tiny llama, and what is said of it.
REFUSED = {
    "llama.attention.head_count": (Typed("u32", 8), "head_count_kv cannot be 4, of 4 numbers each: blk.0.attn_k"),
    "llama.attention.head_count_kv": (Typed("u32", 2), "head_count_kv cannot be 2, of 8 numbers each: blk.0.attn_k"),
    "llama.attention.key_length": (Typed("u32", 16), "head_count cannot be 4, of 16 numbers each: blk.0.attn_q"),
    "llama.attention.value_length": (Typed("u32", 16), "head_count_kv cannot be 4, of 16 numbers each: blk.0.attn_v"),
    "llama.embedding_length": (Typed("u32", 64), "embedding_length cannot be 64: the tensors say 32"),
    "llama.feed_forward_length": (Typed("u32", 32), "feed_forward_length cannot be 32: the tensors say 64"),
    "llama.block_count": (Typed("u32", 1), "block_count cannot be 1: there are tensors of 2 layers"),
    "llama.rope.dimension_count": (Typed("u32", 4), "dimension_count cannot be 4: heads have 8 numbers"),
    "llama.context_length": (Typed("i32", 256), "context_length is stored as i32; llama.cpp reads u32"),
    "llama.expert_count": (Typed("u32", 4), "expert_used_count cannot be 0 of 4 experts"),
    "general.architecture": (Typed("str", "qwen2"), "qwen2.context_length is missing"),
}


@pytest.fixture
def tiny(tmp_path):
    return Gguf().read(write_tiny_llama(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("key", REFUSED)
def test_what_no_tensor_fits_is_found(key, tiny):
    value, said = REFUSED[key]
    assert disagreements(tiny) == []
    with pytest.raises(PlanError, match=said):
        refuse_new(replace(tiny, metadata={**tiny.metadata, key: value}), tiny)


#: An expert count without experts used is an assertion of llama.cpp's, which takes as long as a dump of the process.
@pytest.mark.parametrize(
    "key",
    [
        key if "head_count" in key else pytest.param(key, marks=pytest.mark.slow)
        for key in REFUSED
        if key != "llama.expert_count"
    ],
)
def test_what_is_found_is_refused_by_llama_cpp(key, tiny, tmp_path):
    value, _ = REFUSED[key]
    (path,) = save(replace(tiny, metadata={**tiny.metadata, key: value}), tmp_path / "broken.gguf")
    with pytest.raises(VerifyError), LlamaCpp(path, n_ctx=32):
        pass


def test_a_missing_key_is_found(tiny):
    for name in ("context_length", "embedding_length", "block_count", "attention.layer_norm_rms_epsilon"):
        without = {key: typed for key, typed in tiny.metadata.items() if key != f"llama.{name}"}
        with pytest.raises(PlanError, match=f"{name}.* is missing"):
            refuse_new(replace(tiny, metadata=without), tiny)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokenizer.ggml.eos_token_id", Typed("u32", 10_000), "eos_token_id cannot be 10000: the vocabulary has"),
        ("tokenizer.ggml.tokens", Typed("[str]", ["a"]), "has 1 tokens; token_embd.weight has"),
        ("tokenizer.ggml.scores", Typed("[f32]", [1.0]), "has 1 items for"),
        ("llama.vocab_size", Typed("u32", 7), "vocab_size cannot be 7"),
        ("llama.rope.scaling.type", Typed("str", "yran"), "there are none, linear, yarn, longrope"),
        ("llama.attention.head_count_kv", Typed("[u32]", [4, 4, 4]), "has 3 items for 2 layers"),
        ("llama.block_count", Typed("u32", 0), "takes 1 to 512 layers"),
    ],
)
def test_what_llama_cpp_would_read_past(key, value, said, tiny):
    with pytest.raises(PlanError, match=said):
        refuse_new(replace(tiny, metadata={**tiny.metadata, key: value}), tiny)


def test_what_was_there_before_does_not_stop_a_change(tiny):
    broken = replace(tiny, metadata={**tiny.metadata, "llama.embedding_length": Typed("u32", 64)})
    refuse_new(replace(broken, metadata={**broken.metadata, "general.name": Typed("str", "x")}), broken)
    with pytest.raises(PlanError):
        refuse_new(broken, None)


def test_a_family_knows_what_rules_do_not(tiny):
    """The norm of a layer that is as wide as none."""
    tensors = tuple(
        replace(tensor, name="blk.1.attn_norm2.weight") if tensor.name == "blk.1.attn_norm.weight" else tensor
        for tensor in tiny.tensors
    )
    with pytest.raises(PlanError, match=r"'blk\.1\.attn_norm\.weight' \(layer 1\) is missing"):
        refuse_new(replace(tiny, tensors=tensors), tiny)


def test_files_that_are_no_models_have_no_disagreements(tiny):
    for kind in ("adapter", "imatrix", "mmproj"):
        bare = {"general.type": Typed("str", kind), "general.architecture": Typed("str", "nothing")}
        assert disagreements(replace(tiny, metadata=bare, architecture="nothing")) == []


#: One of each kind of attention every day; the others take their time.
EVERY_DAY = {"llama", "deepseek2", "gemma3"}


@pytest.mark.parametrize(
    "name", [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_no_family_disagrees_with_itself(name, tmp_path):
    make(name, tmp_path / "hf")
    source = Safetensors().read(tmp_path / "hf")
    execute(plan_conversion(source, Gguf(), tmp_path / "model.gguf", Request("F32", vocabulary=False)))
    assert disagreements(Gguf().read(tmp_path / "model.gguf")) == []


@pytest.mark.parametrize("how", ["convert", "copy", "requantize"])
def test_overrides_that_no_tensor_fits_are_refused(how, tiny, tmp_path):
    """llama.cpp does not load a file of other heads than its tensors have; each command says so before it writes."""
    key_values = (("llama.attention.head_count", Typed("u32", 8)),)
    with pytest.raises(PlanError, match="head_count_kv cannot be 4, of 4 numbers each"):
        if how == "requantize":
            plan_requantization(tiny, Gguf(), tmp_path / "out.gguf", Requantization("Q8_0", key_values=key_values))
        else:
            recipe = "Q8_0" if how == "convert" else None
            plan_conversion(tiny, Gguf(), tmp_path / "out.gguf", Request(recipe, key_values=key_values))


def test_layers_are_counted_once(tiny, tmp_path):
    """By what is left out: another count beside that would count them twice."""
    request = Requantization("Q8_0", key_values=(("llama.block_count", Typed("u32", 1)),), prune=(0,))
    with pytest.raises(PlanError, match="block_count follows from the layers that are left out"):
        plan_requantization(tiny, Gguf(), tmp_path / "out.gguf", request)
