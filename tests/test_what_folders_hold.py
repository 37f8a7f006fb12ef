"""Weights stored twice, under one of two names, empty, or with an adapter in them: told for what they are."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.errors import FormatError, UnsupportedError
from requant.execution import execute
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from tests.tiny_folder import write_tiny_folder


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_folder(tmp_path / "tiny", torch.bfloat16)


def plan(folder, out="out.gguf", recipe="BF16"):
    destination = folder.parent / out
    target = FORMATS["gguf" if out.endswith("gguf") else "safetensors"]
    return plan_conversion(detect(folder).read(folder), target, destination, Request(recipe, vocabulary=False))


def arrays_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, arrays, **config):
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def with_head(folder):
    """The arrays with a head that is the embedding, whatever the folder had."""
    arrays = arrays_of(folder)
    return {**arrays, HEAD: arrays[EMBEDDING].clone()}


def test_a_tied_matrix_may_be_stored_under_the_head_s_name(tiny):
    arrays = with_head(tiny)
    both = {step.target.name: step for step in plan(rewrite(tiny, arrays, tie_word_embeddings=True)).steps}
    del arrays[EMBEDDING]
    alone = {step.target.name: step for step in plan(rewrite(tiny, arrays, tie_word_embeddings=True)).steps}
    assert alone.keys() == both.keys()
    assert alone["token_embd.weight"].target == both["token_embd.weight"].target


def test_without_tying_the_embedding_is_missing(tiny):
    arrays = with_head(tiny)
    del arrays[EMBEDDING]
    with pytest.raises(Exception, match=r"embed_tokens\.weight' is missing") as caught:
        plan(rewrite(tiny, arrays, tie_word_embeddings=False))
    assert "shard" not in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tied_head_is_compared_by_value(tiny, dtype):
    arrays = with_head(tiny)
    arrays[HEAD] = arrays[HEAD].to(dtype)
    arrays[EMBEDDING][0, 0] = 0.0
    arrays[HEAD][0, 0] = -0.0
    assert not any(
        step.target.name == "output.weight" for step in plan(rewrite(tiny, arrays, tie_word_embeddings=True)).steps
    )
    arrays[HEAD][-1, -1] += 1
    with pytest.raises(Exception, match="both are stored and differ"):
        plan(rewrite(tiny, arrays, tie_word_embeddings=True))


@pytest.mark.parametrize("copy", ["model.fp16.safetensors", "model-00001-of-00002.safetensors", "weights.safetensors"])
def test_the_file_that_is_the_model_by_its_name_counts(tiny, copy):
    before = detect(tiny).read(tiny).tensors
    save_file({name: array.half() for name, array in arrays_of(tiny).items()}, tiny / copy)
    checkpoint = detect(tiny).read(tiny)
    assert [(t.name, t.encoding) for t in checkpoint.tensors] == [(t.name, t.encoding) for t in before]
    (notice,) = checkpoint.notices
    assert notice == f"model.safetensors counts; {copy} hold the same tensors: not read"


def test_a_file_with_other_tensors_belongs_to_the_model(tiny):
    count = len(arrays_of(tiny))
    save_file({"vision.weight": torch.ones(4, 4)}, tiny / "vision.safetensors")
    checkpoint = detect(tiny).read(tiny)
    assert len(checkpoint.tensors) == count + 1
    assert checkpoint.notices == ()


def test_two_copies_of_which_none_has_the_usual_name_are_an_error(tiny):
    (tiny / "model.safetensors").rename(tiny / "model.fp16.safetensors")
    save_file(load_file(tiny / "model.fp16.safetensors"), tiny / "model.fp32.safetensors")
    with pytest.raises(FormatError, match=r"is also in model\.fp16\.safetensors"):
        detect(tiny).read(tiny)


@pytest.mark.parametrize("out", ["out.gguf", "out"])
def test_empty_parameters_are_told_as_such(tiny, out):
    arrays = {name: array if array.ndim < 2 else array.new_empty(0) for name, array in arrays_of(tiny).items()}
    with pytest.raises(UnsupportedError, match=r"\d+ of \d+ tensors are empty, .* ZeRO-3") as caught:
        plan(rewrite(tiny, arrays), out)
    assert "zero_to_fp32.py" in caught.value.hint


ADAPTED = {
    "wrapped": lambda name: {f"{name}.base_layer.weight": 0, f"{name}.lora_A.default.weight": 4},
    "beside": lambda name: {f"{name}.weight": 0, f"{name}.lora_A.weight": 4},
    "embedded": lambda name: {f"{name}.weight": 0, f"{name}.lora_embedding_A.default": 4},
    "DoRA": lambda name: {f"{name}.weight": 0, f"{name}.lora_magnitude_vector.default.weight": 4},
}


@pytest.mark.parametrize("out", ["out.gguf", "out"])
@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_in_a_model_is_to_be_merged_first(tiny, kind, out):
    arrays, name = arrays_of(tiny), "model.layers.0.self_attn.q_proj"
    weight = arrays.pop(f"{name}.weight")
    added = {key: torch.ones(rows, 8) if rows else weight for key, rows in ADAPTED[kind](name).items()}
    with pytest.raises(UnsupportedError, match=r"\(LoRA\) is in the model") as caught:
        plan(rewrite(tiny, arrays | added), out)
    assert "merge_and_unload" in caught.value.hint


@pytest.mark.parametrize("kind", ["empty", *ADAPTED])
def test_a_plain_copy_needs_no_understanding(tiny, tmp_path, kind):
    arrays = arrays_of(tiny)
    name = "model.layers.0.self_attn.q_proj"
    if kind == "empty":
        arrays[f"{name}.weight"] = arrays[f"{name}.weight"].new_empty(0)
    else:
        weight = arrays.pop(f"{name}.weight")
        arrays |= {other: weight[:rank].clone() if rank else weight for other, rank in ADAPTED[kind](name).items()}
    rewrite(tiny, arrays)
    execute(plan(tiny, str(tmp_path / "copy"), recipe=None))
    copied = arrays_of(tmp_path / "copy")
    assert copied.keys() == arrays.keys()
    assert all(torch.equal(copied[other], array) for other, array in arrays.items())


def test_a_shard_is_missing_only_where_something_says_so(tiny):
    """A tensor that is not there: nothing, an index that names it, or the shard of a set that was opened alone."""
    arrays = arrays_of(tiny)
    name = "model.layers.1.mlp.up_proj.weight"
    del arrays[name]
    rewrite(tiny, arrays)
    with pytest.raises(Exception, match="is missing") as caught:
        plan(tiny)
    assert "shard" not in caught.value.hint
    index = {"weight_map": dict.fromkeys([*arrays, name], "model.safetensors")}
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Exception, match="is missing") as caught:
        plan(tiny)
    assert "fetch the files that it names again" in caught.value.hint
    half = tiny / "model-00001-of-00002.safetensors"
    save_file({"m.weight_scale_inv": torch.ones(1, 1)}, half)
    with pytest.raises(FormatError, match="no 'weight'") as caught:
        detect(half).read(half)
    assert caught.value.hint == "this file is shard 1 of 2: open the folder, or its index"


def test_a_notice_tells_of_the_copy_in_the_plan(tiny):
    save_file({name: array.half() for name, array in arrays_of(tiny).items()}, tiny / "model.fp16.safetensors")
    told = [loss.detail for loss in plan(tiny).losses if loss.kind is LossKind.SUSPECT]
    assert told == ["model.safetensors counts; model.fp16.safetensors hold the same tensors: not read"]


def test_masks_and_a_copy_of_the_embedding_are_no_parameters(tiny):
    arrays = arrays_of(tiny)
    before = report(detect(tiny).read(tiny), "safetensors")
    more = {
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 64, 64),
        "model.rotary_emb.inv_freq": torch.ones(16),
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    }
    config = {"tie_word_embeddings": True}
    held = report(detect(rewrite(tiny, arrays | more | with_head(tiny), **config)).read(tiny), "safetensors")
    head = arrays[HEAD].numel() if HEAD in arrays else 0
    assert held.total.weights == before.total.weights - head
    assert held.total.nbytes > before.total.nbytes
    assert held.total.weights == sum(share.weights for share in held.by_role.values())
    biased = arrays | {"model.layers.0.self_attn.bias": torch.ones(64)}  # a bias by its shape
    assert (
        report(detect(rewrite(tiny, biased)).read(tiny), "safetensors").total.weights
        == before.total.weights + 64 - head
    )
