"""What follows from a layer's position or number, when layers are left out; and the cache that each layer has."""

import re

import gguf
import numpy as np
import pytest
import torch
import transformers

from requant.errors import PlanError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Typed
from requant.layered import _PERIODS, _SCALE_BY_LAYERS, relayered_metadata, windowed_layers
from requant.operations import requantize
from requant.operations.cache import LayerCache, cache_bytes, caches_of, metadata_of
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from requant.operations.requantize import plan_requantization
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import BATCH
from tests.test_heads import TEXT, saved
from tests.tiny_models import make

GEMMA3 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 7}


def keys(architecture, **values):
    """GGUF keys of an architecture; `__` stands for a dot."""
    kinds = {bool: "bool", int: "u32", float: "f32"}
    found = {}
    for name, value in values.items():
        kind = f"[{kinds[type(value[0])]}]" if isinstance(value, list) else kinds[type(value)]
        found[f"{architecture}.{name.replace('__', '.')}"] = Typed(kind, value)
    return found


def test_architectures_are_llama_cpp_s():
    assert {*_SCALE_BY_LAYERS} <= {*_PERIODS}
    known = {*gguf.MODEL_ARCH_NAMES.values()}
    newer = {"cohere2moe", "gemma-embedding2", "laguna", "mellum", "muse-glimmer"}  # than the package
    assert {*_PERIODS} <= known | newer


@pytest.mark.parametrize("pruned", [(1,), (5,), (0, 1, 2)])
def test_a_pruned_gemma_has_its_windows_where_they_were(pruned, tmp_path):
    """The runtime's logits are those of a transformers model of the remaining layers, each of its own kind."""
    model = saved(tmp_path / "hf", "Gemma3ForCausalLM", "Gemma3TextConfig", **GEMMA3)
    execute(
        plan_conversion(
            Safetensors().read(tmp_path / "hf"), Gguf(), tmp_path / "a.gguf", Request("F32", vocabulary=False)
        )
    )
    execute(
        plan_requantization(
            Gguf().read(tmp_path / "a.gguf"), Gguf(), tmp_path / "b.gguf", requantize.Request("COPY", prune=pruned)
        )
    )
    kept = [n for n in range(7) if n not in pruned]
    config = transformers.Gemma3TextConfig.from_dict(model.config.to_dict())
    config.num_hidden_layers, config.layer_types = len(kept), [model.config.layer_types[n] for n in kept]
    smaller = transformers.Gemma3ForCausalLM(config).eval()
    weights = {}
    for name, value in model.state_dict().items():
        layer = re.search(r"layers\.(\d+)\.", name)
        if layer is None:
            weights[name] = value
        elif int(layer[1]) in kept:
            weights[name.replace(layer[0], f"layers.{kept.index(int(layer[1]))}.")] = value
    smaller.load_state_dict(weights)
    text = TEXT * 5
    with torch.inference_mode():
        theirs = smaller(torch.tensor([text])).logits[0].numpy()
    with LlamaCpp(tmp_path / "b.gguf", n_ctx=256, precise=True) as runtime:
        ours = runtime.logits(text)
    assert np.abs(ours - theirs).max() <= 2e-3 * np.ptp(theirs)


def test_whole_groups_keep_the_silent_pattern():
    metadata = keys("gemma3", block_count=18, attention__sliding_window=512)
    after = relayered_metadata(metadata, "gemma3", range(6, 18))
    assert "gemma3.attention.sliding_window_pattern" not in after
    assert after["gemma3.block_count"] == Typed("u32", 12)
    assert windowed_layers(after, "gemma3", 12) == windowed_layers(metadata, "gemma3", 18)[6:]


@pytest.mark.parametrize("architecture", _PERIODS)
def test_windows_follow_their_layers(architecture):
    metadata = keys(architecture, block_count=13, attention__sliding_window=64)
    windows = windowed_layers(metadata, architecture, 13)
    assert any(windows) and not all(windows)
    for kept in ([0, 2, 4, 7, 11, 12], [3, 3, 4], [12, 1, 0]):
        try:
            after = relayered_metadata(metadata, architecture, kept)
        except PlanError:
            assert architecture in ("llama4", "afmoe")  # layers without rope go by position, too
            continue
        assert windowed_layers(after, architecture, len(kept)) == [windows[n] for n in kept]


def test_lists_of_layers_are_cut_and_others_are_not():
    metadata = keys(
        "qwen2vl",
        block_count=4,
        rope__dimension_sections=[16, 24, 24, 0],
        attention__head_count_kv=[1, 2, 3, 4],
        feed_forward_length=[5, 6, 7, 8],
        expert_used_count=2,
    )
    after = relayered_metadata(metadata, "qwen2vl", [3, 0])
    assert list(after["qwen2vl.rope.dimension_sections"].value) == [16, 24, 24, 0]
    assert after["qwen2vl.attention.head_count_kv"].value == [4, 1]
    assert after["qwen2vl.feed_forward_length"].value == [8, 5]
    assert list(after)[-1] == "qwen2vl.block_count"


def test_counts_from_either_end():
    metadata = keys("glm4moe", block_count=10, leading_dense_block_count=3, nextn_predict_layers=1)
    after = relayered_metadata(metadata, "glm4moe", [0, 2, 3, 4, 9])
    assert after["glm4moe.leading_dense_block_count"].value == 2
    assert after["glm4moe.nextn_predict_layers"].value == 1
    assert relayered_metadata(metadata, "glm4moe", range(9))["glm4moe.nextn_predict_layers"].value == 0
    for kept in ([3, 0], [9, 3], [0, 3, 2]):
        with pytest.raises(PlanError, match="from one end"):
            relayered_metadata(metadata, "glm4moe", kept)


@pytest.mark.parametrize(
    ("architecture", "more", "kept"),
    [
        ("qwen3next", {}, [0, 2, 3]),
        ("qwen35", {"full_attention_interval": 3}, [0, 1, 2, 4]),
        ("smollm3", {}, [1, 2]),
        ("llama4", {"interleave_moe_layer_step": 2}, [1, 2]),
        ("gemma3n", {"attention__shared_kv_layers": 2}, [0, 1]),
        ("gemma4", {"embedding_length_per_layer_input": 256}, [0, 1]),
        ("qwen3vl", {"n_deepstack_layers": 3}, [3, 0]),
    ],
)
def test_what_positions_alone_say_is_refused(architecture, more, kept):
    with pytest.raises(PlanError):
        relayered_metadata(keys(architecture, block_count=8, **more), architecture, kept)


@pytest.mark.parametrize(("architecture", "step"), [("qwen3next", 4), ("smollm3", 4)])
def test_whole_groups_may_go(architecture, step):
    after = relayered_metadata(keys(architecture, block_count=3 * step), architecture, range(step, 3 * step))
    assert after[f"{architecture}.block_count"].value == 2 * step


def test_the_scale_of_a_27b_is_known_by_its_layers():
    sizes = {"attention__head_count": 32, "embedding_length": 5376, "attention__key_length": 128}
    with pytest.raises(PlanError, match="62 layers"):
        relayered_metadata(keys("gemma3", block_count=62, **sizes), "gemma3", range(60))
    assert relayered_metadata(keys("gemma3", block_count=26, **sizes), "gemma3", range(24))


MODELS = [
    ("LlamaForCausalLM", "LlamaConfig", {}),
    ("Gemma3ForCausalLM", "Gemma3TextConfig", {**GEMMA3, "sliding_window": 512}),
    ("Gemma2ForCausalLM", "Gemma2Config", {**GEMMA3, "sliding_window": 100}),
    (
        "GptOssForCausalLM",
        "GptOssConfig",
        {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4},
    ),
]


@pytest.mark.parametrize(
    ("model", "config", "more"),
    [pytest.param(*row, marks=() if "Gemma3" in row[0] else pytest.mark.slow) for row in MODELS],
)
def test_the_cache_is_what_llama_cpp_allocates(model, config, more, tmp_path):
    saved(tmp_path / "hf", model, config, max_position_embeddings=8192, **more)
    source = Safetensors().read(tmp_path / "hf")
    execute(plan_conversion(source, Gguf(), tmp_path / "m.gguf", Request("F32", vocabulary=False)))
    with LlamaCpp(tmp_path / "m.gguf", n_ctx=8192) as runtime:
        log = runtime._log_text()
    caches = r"\(\s*(\d+) cells,\s*(\d+) layers,.*K \(f16\):\s*([\d.]+) MiB, V \(f16\):\s*([\d.]+) MiB"
    found = re.findall(caches, log)
    assert found, log[-2000:]
    allocated = sorted(int(cells) for cells, layers, *_ in found for _ in range(int(layers)))
    architecture = gguf.GGUFReader(tmp_path / "m.gguf").fields["general.architecture"].contents()
    ours = caches_of(Gguf().read(tmp_path / "m.gguf").metadata, architecture)
    assert sorted(cache.cells(8192, BATCH) for cache in ours) == allocated
    # of all layers together, in MiB; what is printed has two decimals
    theirs = sum(float(keys) + float(values) for _, _, keys, values in found)
    here = sum(2 * cache.width * cache.cells(8192, BATCH) for cache in ours)
    assert abs(here / 2**20 - theirs) <= 0.02 * len(found)
    usual = sum(cache.nbytes(8192) for cache in ours)
    for checkpoint in (Gguf().read(tmp_path / "m.gguf"), source):
        assert report(checkpoint, "x").memory[-1].kv_cache == usual


@pytest.mark.parametrize("name", ["lfm2", "granitehybrid", "qwen3next", "mamba2", "gemma3"])
def test_a_folder_takes_what_its_gguf_does(name, tmp_path):
    """Layers that keep a state, a window or nothing are as many, whatever config.json calls them."""
    make(name, tmp_path / "hf")
    source = Safetensors().read(tmp_path / "hf")
    execute(plan_conversion(source, Gguf(), tmp_path / "m.gguf", Request("F32", vocabulary=False)))
    folder, gguf_file = (report(one, "x").running for one in (source, Gguf().read(tmp_path / "m.gguf")))
    for ours, theirs in zip(folder.memory, gguf_file.memory, strict=True):
        assert (ours.caches, ours.state, ours.compute) == (theirs.caches, theirs.state, theirs.compute)
    assert (folder.memory[0].state > 0) == (name not in ("gemma3",))
    assert folder.speed.weights == pytest.approx(gguf_file.speed.weights, rel=0.01)


def test_block_types_of_a_cache_need_heads_of_whole_blocks():
    caches = [LayerCache(256, head=64), LayerCache(0, state=1000)]
    assert cache_bytes(caches, 256)["f16"] == 2 * 256 * 256 + 1000
    assert cache_bytes(caches, 256)["q4_0"] == 256 * 256 // 32 * 18 + 1000
    assert {*cache_bytes([LayerCache(240, head=80)], 256)} == {"f32", "f16", "bf16"}


def test_of_experts_only_those_that_are_asked_are_read(tmp_path):
    make("qwen3moe", tmp_path / "hf")
    source = Safetensors().read(tmp_path / "hf")
    speed = report(source, "x").running.speed
    used, count = speed.experts
    experts = sum(t.nbytes for t in source.tensors if ".experts." in t.name)
    embedding = next(t.nbytes for t in source.tensors if t.name == "model.embed_tokens.weight")
    untied = any(t.name == "lm_head.weight" for t in source.tensors)
    rest = sum(t.nbytes for t in source.tensors) - experts - embedding * untied
    assert 0 < used < count and speed.weights == pytest.approx(rest + experts * used / count, abs=100)
    assert speed.tokens_per_second == speed.bandwidth / speed.weights


def test_encoders_and_states():
    sizes = {"block_count": 4, "embedding_length": 64, "attention__head_count": 4}
    assert {cache.nbytes(512) for cache in caches_of(keys("bert", **sizes), "bert")} == {0}
    state = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 2}
    hybrid = keys("jamba", **(sizes | state | {"attention__head_count_kv": [0, 2, 0, 0]}))
    caches = caches_of(hybrid, "jamba")
    assert [cache.width for cache in caches] == [0, 2 * 32, 0, 0]
    assert caches[0].state == 4 * (3 * (128 + 2 * 2 * 16) + 16 * 128)
    assert caches_of({}, "llama") is None
    folder = Checkpoint(Naming.HF, "", (), config={"model_type": ["x"], "num_hidden_layers": "many"})
    assert caches_of(*metadata_of(folder)) is None
