"""What a file says about its model besides hyperparameters: names, licences, sampling, pooling, and odd spellings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from requant.architectures import carried, translate
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats.safetensors import Safetensors
from requant.ir import Naming, Typed
from requant.losses import LossKind
from requant.sources import Memory, read
from tests import models
from tests.naive_expressions import carried_out
from tests.test_architectures import described
from tests.test_architectures_refused import gguf, hf, tensor
from tests.tiny_models import make


def file(text):
    return Memory((text if isinstance(text, str) else json.dumps(text)).encode())


def content(source):
    return read(source).tobytes().decode()


def metadata_with(files, path=Path("/models/tiny-llama-1B-chat")):
    return translate(replace(hf(), files=files, path=path), Naming.GGML)


CARD = """---
license: apache-2.0
language:
- en
- no
tags: [chat, 2024]
version: 1.5
base_model: someone/Base-7B
---
# A model
"""


@pytest.mark.parametrize(
    ("folder", "name"), [("Qwen2.5-0.5B", "Qwen2.5 0.5B"), ("models--org--Tiny-1.5B/snapshots/0123abc", "Tiny 1.5B")]
)
def test_the_folder_names_the_model(tmp_path, folder, name):
    path = tmp_path / folder
    path.mkdir(parents=True)
    assert metadata_with({}, path).metadata["general.name"] == Typed("str", name)


def test_the_model_card_is_read():
    said = metadata_with({"README.md": file(CARD)})
    assert said.losses == ()
    assert said.metadata["general.license"] == Typed("str", "apache-2.0")
    assert said.metadata["general.languages"] == Typed("[str]", ["en", "no"])
    assert said.metadata["general.tags"] == Typed("[str]", ["chat", "2024"])
    assert said.metadata["general.version"] == Typed("str", "1.5")
    assert said.metadata["general.base_model.count"] == Typed("u32", 1)
    assert said.metadata["general.base_model.0.name"] == Typed("str", "Base 7B")
    assert said.metadata["general.name"] == Typed("str", "Tiny Llama 1B Chat")
    assert list(said.metadata)[:2] == ["general.architecture", "general.type"]


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: [unclosed\n---\n",
        "---\n- just\n- a list\n---\n",
        "---\nbase_model: {a: {b: c}}\ndatasets: 7\n---\n",
        "---\nlicense: {a: 1}\ntags: {b: 2}\n---\n",
        "---\nname: 12\n---\n",
        "---\n",
        "no front matter",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\n\x00\n---\n",
    ],
)
def test_a_broken_model_card_is_no_reason_to_stop(card):
    said = metadata_with({"README.md": file(card)})
    assert said.metadata["general.architecture"].value == "llama"
    assert said.metadata["general.name"].kind == "str"
    assert all(loss.subject == "README.md" for loss in said.losses)
    for typed in said.metadata.values():
        assert typed.kind != "str" or isinstance(typed.value, str)


def test_what_a_gguf_says_comes_back():
    said = {
        "general.name": Typed("str", "Tiny"),
        "general.license": Typed("str", "mit"),
        "general.tags": Typed("[str]", ["a", 'b"c']),
        "general.languages": Typed("[str]", ["en"]),
        "general.description": Typed("str", "Ünïcode: yes"),
        "general.quantized_by": Typed("str", "someone"),
        "general.base_model.count": Typed("u32", 1),
        "general.base_model.0.name": Typed("str", "Base"),
        "general.sampling.temp": Typed("f32", np.float32(0.7).item()),
        "general.sampling.top_k": Typed("i32", 40),
        "general.sampling.mirostat": Typed("i32", 2),
        "llama.some.new_key": Typed("[f32]", [1.0, 2.0]),
    }
    there = translate(gguf(said), Naming.HF)
    assert there.losses == ()
    assert "license: mit" in content(there.files["README.md"])
    assert json.loads(content(there.files["generation_config.json"])) == {
        "do_sample": True,
        "top_k": 40,
        "temperature": 0.7,
    }
    back = translate(described(there, Naming.HF), Naming.GGML).metadata
    for key, typed in said.items():
        assert back[key].kind == typed.kind
        assert back[key].value == (pytest.approx(typed.value) if typed.kind == "f32" else typed.value), key


def test_what_belongs_to_the_file_stays_behind():
    said = {
        "general.file_type": Typed("u32", 15),
        "general.quantization_version": Typed("u32", 2),
        "split.count": Typed("u16", 3),
        "quantize.imatrix.file": Typed("str", "x"),
    }
    there = translate(gguf(said), Naming.HF)
    assert carried.KEY not in there.metadata
    assert there.metadata["format"] == Typed("str", "pt")


def test_what_is_too_large_is_told():
    (loss,) = translate(gguf({"general.huge": Typed("[u8]", list(range(200)) * 100)}), Naming.HF).losses
    assert (loss.kind, loss.subject) == (LossKind.METADATA_DROPPED, "general.huge")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"general.name": "x"}',
        '{"general.name": ["str", 5], "llama.x": ["u8", 300], "llama.y": ["[u8]", [1, -1]], "general.z": ["f99", 1]}',
        '{"general.file_type": ["u32", 1], "tokenizer.ggml.model": ["str", "x"], "llama.block_count": ["u32", 99]}',
        '{"general.b": ["bool", 1], "general.i": ["i8", true], "general.n": [null, null]}',
        "[" * 100_000,
    ],
)
def test_carried_metadata_that_makes_no_sense_is_ignored(text):
    plain = translate(hf(), Naming.GGML).metadata
    model = replace(hf(), metadata={carried.KEY: Typed("str", text)})
    assert translate(model, Naming.GGML).metadata == plain


def test_sampling_from_generation_config():
    files = {
        "generation_config.json": file({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": True})
    }
    said = metadata_with(files).metadata
    assert said["general.sampling.temp"] == Typed("f32", 0.6)
    assert said["general.sampling.top_p"] == Typed("f32", 0.9)
    assert said["general.sampling.top_k"] == Typed("i32", 20)
    assert "general.sampling.penalty_repeat" not in said
    with pytest.raises(FormatError, match=r"generation_config.json, byte 1: invalid JSON"):
        metadata_with({"generation_config.json": file("{")})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    make("bert", folder)
    return Safetensors().read(folder)


def modules(*kinds):
    return [
        {"path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("pooling", "number"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "cls"}, 2),
    ],
)
def test_pooling_there_and_back(bert, pooling, number):
    files = {
        "modules.json": file(modules("Transformer", "Pooling", "Normalize")),
        "1_Pooling/config.json": file(pooling),
    }
    said = translate(replace(bert, files=files), Naming.GGML)
    assert said.metadata["bert.pooling_type"] == Typed("u32", number)
    back = translate(described(said, Naming.GGML), Naming.HF)
    again = translate(described(back, Naming.HF), Naming.GGML)
    assert again.metadata["bert.pooling_type"] == Typed("u32", number)
    assert carried.KEY not in back.metadata


def test_pooling_that_llama_cpp_does_not_know(bert):
    files = {
        "modules.json": file(modules("Transformer", "Pooling")),
        "1_Pooling/config.json": file({"pooling_mode_max_tokens": True}),
    }
    with pytest.raises(UnsupportedError, match="1_Pooling"):
        translate(replace(bert, files=files), Naming.GGML)


def test_modules_without_a_place_are_told(bert):
    files = {"modules.json": file(modules("Transformer", "Dense"))}
    losses = translate(replace(bert, files=files), Naming.GGML).losses
    assert "1_Dense" in {loss.subject for loss in losses}
    assert translate(replace(bert, files={"modules.json": file([7, {"type": 1}])}), Naming.GGML)


def renamed(checkpoint, change):
    return replace(checkpoint, tensors=tuple(replace(t, name=change(t.name)) for t in checkpoint.tensors))


def arrays(translation):
    return {move.name: carried_out(move.values) for move in translation.moves}


@pytest.mark.parametrize(
    "change",
    [
        lambda name: "bert." + name,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
    ids=["prefix", "gamma-beta"],
)
def test_other_names_of_bert(bert, change):
    usual, other = arrays(translate(bert, Naming.GGML)), arrays(translate(renamed(bert, change), Naming.GGML))
    assert usual.keys() == other.keys()
    assert all(np.array_equal(usual[name], other[name]) for name in usual)


def test_one_tensor_by_two_names(bert):
    twin = tensor("embeddings.LayerNorm.gamma", (64,))
    with pytest.raises(PlanError, match=r"LayerNorm\.weight.*LayerNorm\.gamma"):
        translate(replace(bert, tensors=(*bert.tensors, twin)), Naming.GGML)


def test_pretraining_heads_of_bert_are_told(bert):
    heads = (tensor("cls.predictions.bias", (96,)), tensor("embeddings.position_ids", (1, 128)))
    losses = translate(replace(bert, tensors=(*bert.tensors, *heads)), Naming.GGML).losses
    assert {loss.subject for loss in losses} == {"cls.predictions.bias", "pooler.dense.weight", "pooler.dense.bias"}


def test_gpt2_as_it_was_first_published(tmp_path):
    make("gpt2", tmp_path / "gpt2")
    model = Safetensors().read(tmp_path / "gpt2")
    old = renamed(model, lambda name: name.removeprefix("transformer."))
    masks = tuple(tensor(f"h.{n}.attn.bias", (1, 1, 8, 8)) for n in range(2))
    said = translate(replace(old, tensors=(*old.tensors, *masks)), Naming.GGML)
    assert said.losses == ()
    usual, other = arrays(translate(model, Naming.GGML)), arrays(said)
    assert usual.keys() == other.keys()
    assert all(np.array_equal(usual[name], other[name]) for name in usual)


def test_mamba_as_it_was_first_published(tmp_path):
    make("mamba", tmp_path)
    source = Safetensors().read(tmp_path)
    names = {"backbone.embeddings.weight": "backbone.embedding.weight"}
    old = tuple(replace(item, name=names.get(item.name, item.name)) for item in source.tensors)
    config = {"architectures": ["MambaLMHeadModel"], "d_model": 64, "n_layer": 2, "vocab_size": 93}
    config |= {"ssm_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True}
    first = replace(source, tensors=old, architecture=None, config=config | {"pad_vocab_size_multiple": 8})
    ours, theirs = translate(first, Naming.GGML), translate(source, Naming.GGML)
    assert {move.name for move in ours.moves} == {move.name for move in theirs.moves}
    assert {key: typed.value for key, typed in ours.metadata.items() if key.startswith("mamba.")} == {
        key: typed.value for key, typed in theirs.metadata.items() if key.startswith("mamba.")
    }
    with pytest.raises(PlanError, match="vocab_size is 93, but"):
        translate(replace(first, config=config), Naming.GGML)


def test_a_llama_without_head():
    bare = renamed(
        hf({"architectures": ["LlamaModel"]}, without=["lm_head.weight"]), lambda name: name.removeprefix("model.")
    )
    assert "output.weight" not in {move.name for move in translate(bare, Naming.GGML).moves}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "gemma3"
    make("gemma3", folder)
    return Safetensors().read(folder)


def test_the_text_model_of_a_multimodal_gemma(gemma):
    text = {key: value for key, value in gemma.config.items() if key != "architectures"}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    model = renamed(gemma, lambda name: name.replace("model.", "model.language_model."))
    model = replace(
        model,
        architecture="gemma3",
        config=config,
        tensors=(*model.tensors, tensor("model.vision_tower.patch.weight", (2, 2))),
    )
    said = translate(model, Naming.GGML)
    assert [loss.subject for loss in said.losses] == ["model.vision_tower.patch.weight"]
    usual, other = arrays(translate(gemma, Naming.GGML)), arrays(said)
    assert usual.keys() == other.keys()


def test_gemma_with_other_windows(gemma):
    types = ["full_attention", "sliding_attention"] * 3 + ["full_attention"]
    said = translate(replace(gemma, config={**gemma.config, "layer_types": types}), Naming.GGML)
    pattern = said.metadata["gemma3.attention.sliding_window_pattern"]
    assert pattern == Typed("[bool]", [False, True] * 3 + [False])
    assert translate(described(said, Naming.GGML), Naming.HF).config["layer_types"] == types

    everywhere = replace(gemma, config={**gemma.config, "layer_types": ["full_attention"] * 7})
    said = translate(everywhere, Naming.GGML)
    assert "gemma3.attention.sliding_window" not in said.metadata
    assert translate(described(said, Naming.GGML), Naming.HF).config["layer_types"] == ["full_attention"] * 7


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"query_pre_attn_scalar": 99}, "query_pre_attn_scalar"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["strange"] * 7}, "layer_types"),
    ],
)
def test_gemma_that_llama_cpp_cannot_compute(gemma, change, word):
    with pytest.raises(PlanError, match=word):
        translate(replace(gemma, config={**gemma.config, **change}), Naming.GGML)


def test_minilm_says_what_the_converter_says():
    """Values that `convert_hf_to_gguf.py` of the llama-cpp-python 0.3.36 sdist writes for the folder's name."""
    model = Safetensors().read(models.minilm())
    said = translate(replace(model, path=Path("all-MiniLM-L6-v2")), Naming.GGML).metadata
    assert {key: typed.value for key, typed in said.items() if not key.startswith("general.dataset")} == {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "MiniLM L6 H384 Uncased",
        "general.version": "v2",
        "general.organization": "Nreimers",
        "general.basename": "all-MiniLM-L6",
        "general.size_label": "23M",
        "general.license": "apache-2.0",
        "general.tags": [
            *("sentence-transformers", "feature-extraction", "sentence-similarity", "transformers"),
            "sentence-similarity",
        ],
        "general.languages": ["en"],
        "bert.block_count": 6,
        "bert.context_length": 512,
        "bert.embedding_length": 384,
        "bert.feed_forward_length": 1536,
        "bert.attention.head_count": 12,
        "bert.attention.layer_norm_epsilon": pytest.approx(1e-12),
        "tokenizer.ggml.token_type_count": 2,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
    }


def test_what_the_gguf_package_says_of_a_card_is_a_loss_and_not_on_the_terminal(capfd):
    """Its logger would print the card's own text, escapes included."""
    card = '---\nbase_model: ["\\x1b[2Jodd", [1]]\n---\n'
    told = [loss for loss in metadata_with({"README.md": file(card)}).losses if loss.subject == "README.md"]
    assert told
    assert all(loss.detail.isprintable() for loss in told)
    said = capfd.readouterr()
    assert said.out == said.err == ""
