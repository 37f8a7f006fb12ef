"""What other libraries leave beside and inside a model, as targets: recipes, adapters, tekken.json, torchao.

Seeds are the fixtures that mergekit's users, PEFT and torchao made, or are shaped as those; see `targets.py` for what a
target is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from requant.adapters.opening import adapter_of
from requant.adapters.told import about
from requant.adapters.written import Base, plan_adapter
from requant.cli.execution import plan_text
from requant.encodings import BF16, F32
from requant.errors import PlanError
from requant.formats import FORMATS
from requant.formats.folding import folded
from requant.formats.safetensors.folder import read_config
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.layout import Format
from requant.merging.methods import METHODS
from requant.merging.model import Model, model_of, with_adapter
from requant.merging.recipe import recipes_from
from requant.merging.reference import Reference
from requant.operations.convert import Request, plan_conversion
from requant.operations.merge import Options, plan_merge
from requant.pipelines.recipe import recipe_from
from requant.sources import Memory
from requant.tokenizers import to_ggml
from tests.fuzz import seeds
from tests.fuzz.mutations import INTEGERS, TEXTS, json_text, mutated, shaken

GGUF, SAFETENSORS = FORMATS["gguf"], FORMATS["safetensors"]
_TARGETS: Final[tuple[tuple[Format, Path, str | None], ...]] = (
    (SAFETENSORS, Path("out"), None),
    (SAFETENSORS, Path("out"), "NF4"),
    (GGUF, Path("out.gguf"), "Q4_K_M"),
    (GGUF, Path("out.gguf"), "F16"),
)
_LLAMA: Final[dict[str, Any]] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


@cache
def _llama() -> Checkpoint[Tensor]:
    """The model that the adapters in the fixtures are for, without numbers."""
    shapes = {"model.embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        of = f"model.layers.{layer}."
        shapes |= {f"{of}{norm}_layernorm.weight": (64,) for norm in ("input", "post_attention")}
        shapes |= {f"{of}self_attn.{name}_proj.weight": (rows, 64) for name, rows in (("q", 64), ("k", 32), ("v", 32))}
        shapes |= {f"{of}self_attn.o_proj.weight": (64, 64), f"{of}mlp.down_proj.weight": (64, 96)}
        shapes |= {f"{of}mlp.{name}_proj.weight": (96, 64) for name in ("gate", "up")}
    tensors = tuple(seeds.empty(TensorSpec(name, shape, BF16)) for name, shape in shapes.items())
    return Checkpoint(Naming.HF, "llama", tensors, _LLAMA, path=Path("llama"))


@cache
def _models() -> Mapping[str, Model]:
    """What recipes may name."""
    tokenizer = {name: Memory(data) for name, data in seeds.hf_tokenizers()["library"].items()}
    other = replace(_llama(), files=tokenizer, config={**_LLAMA, "bos_token_id": 1, "eos_token_id": 2})
    gguf = seeds.ggml_models()["llama"]
    sources = {"a": replace(other, path=Path("a")), "b": other, "c": replace(other, path=Path("c")), "g": gguf}
    return {name: model_of(Reference(name), source) for name, source in sources.items()}


def _opened(reference: Reference) -> Model:
    model = _models().get(reference.model.partition("@")[0])
    if model is None:
        raise PlanError(f"{reference}: there is no such model")
    model = replace(model, reference=reference)
    return model if reference.lora is None else with_adapter(model, adapter_of(_adapters()["llama-lora"]))


_RECIPES: Final[tuple[dict[str, Any], ...]] = (
    {
        "merge_method": "ties",
        "base_model": "a",
        "models": [
            {"model": "b", "parameters": {"weight": 0.5, "density": [0.2, 0.9, 1.0]}},
            {"model": "c", "parameters": {"weight": [{"filter": "self_attn", "value": [0, 1]}, {"value": 1}]}},
        ],
        "parameters": {"normalize": True, "int8_mask": True},
        "dtype": "bfloat16",
        "out_dtype": "float16",
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<x>": {"source": {"kind": "model_token", "model": "a", "token_id": 5}},
                "<y>": {"source": {"kind": "zero"}},
            },
        },
        "chat_template": "auto",
    },
    {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": {"model": {"path": "b", "revision": "main"}}, "layer_range": [0, 1]}]},
        ],
        "dtype": "float32",
    },
    {
        "name": "first",
        "merge_method": "slerp",
        "base_model": "a",
        "slices": [
            {
                "sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b+lora", "layer_range": [0, 2]}],
                "parameters": {"t": [0, 0.5, 1]},
            }
        ],
        "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]},
        "tokenizer_source": "base",
    },
    {
        "merge_method": "linear",
        "parameters": {"weight": 1.0},
        "modules": {"default": {"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}},
    },
)


def merge_recipe(random: Random, folder: Path) -> None:
    """A recipe of any method: JSON is YAML; keys, values, several documents, and some of its bytes."""
    recipe = random.choice(_RECIPES)
    if random.random() < 0.3 and recipe["merge_method"] != "passthrough":
        recipe = {**recipe, "merge_method": random.choice(list(METHODS))}
    text = json_text(mutated(recipe, random) if random.random() < 0.9 else recipe)
    if random.random() < 0.2:
        text = f"{text}\n---\n{json_text({**random.choice(_RECIPES), 'name': random.choice(('first', 'x', 'a'))})}"
    if random.random() < 0.2:
        text = shaken(text.encode("utf-8", "surrogatepass"), random).decode("utf-8", "surrogateescape")
    target, out, to = random.choice(_TARGETS)
    options = Options(random.choice((0, 1, 2**64)), random.random() < 0.5, Request(to, vocabulary=False))
    plan = plan_merge(recipes_from(text, "recipe.yml"), _opened, target, out, options)
    if random.random() < 0.1:
        plan_text(plan, 2)


_PIPELINE: Final[dict[str, Any]] = {
    "inputs": {"model": "a", "tokens": 4096, "to": "Q4_K_M"},
    "model": "$model",
    "stages": [
        {"merge": "previous+x"},
        {"merge": {**_RECIPES[0], "seed": 3, "allow_crimes": True}},
        {"student": {"layers": 2, "mapping": "uniform", "ffn": 32}},
        {
            "prune": {
                "sparsity": "2:4",
                "method": "wanda",
                "skip": ["down"],
                "each": {"up": "50%"},
                "drop_layers": "0-1",
            }
        },
        {"calibrate": {"tokens": "$tokens", "text": ["a.txt"], "ctx": 64, "seed": 1}},
        {"quantize": {"to": "$to", "tensor_type": {"attn_v": "Q6_K"}, "pure": False, "output_tensor_type": "Q8_0"}},
        {"check": {"against": "$model", "max_kl": 0.5, "chunks": 1, "prompt": "x", "raw": True}},
    ],
    "output": "${model}.gguf",
}


def pipeline_recipe(random: Random, folder: Path) -> None:
    """A recipe of stages: JSON is YAML; keys, values, and some of its bytes."""
    text = json_text(mutated(_PIPELINE, random) if random.random() < 0.9 else _PIPELINE)
    if random.random() < 0.2:
        text = shaken(text.encode("utf-8", "surrogatepass"), random).decode("utf-8", "surrogateescape")
    given = {random.choice(("model", "tokens", "to", "none")): random.choice(TEXTS)} if random.random() < 0.3 else {}
    recipe_from(text, "run.yaml", given)


@cache
def _adapters() -> Mapping[str, Checkpoint[Tensor]]:
    """As PEFT saved them."""
    root = seeds.FIXTURES / "adapters"
    found = {path.name: SAFETENSORS.read(path) for path in sorted(root.iterdir()) if path.is_dir()}
    return {name: source for name, source in found.items() if name.startswith("llama") and "biases" not in name}


def _changed_tensors(tensors: Iterable[Tensor], random: Random) -> tuple[Tensor, ...]:
    """One to three of them lost, doubled, renamed, reshaped or of another type; their numbers are zeros."""
    found = [TensorSpec(tensor.name, tensor.shape, tensor.encoding) for tensor in tensors]
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        if not found:
            break
        at = random.randrange(len(found))
        one = found[at]
        parts = one.name.split(".")
        match random.randrange(6):
            case 0:
                del found[at]
            case 1:
                shape = tuple(random.choice((n, n + 1, 1, 0, n // 2)) for n in one.shape)
                found[at] = TensorSpec(one.name, shape, one.encoding)
            case 2:
                found[at] = TensorSpec(one.name, random.choice(((*one.shape, 1), one.shape[1:], ())), one.encoding)
            case 3:
                parts[random.randrange(len(parts))] = random.choice((*TEXTS, "lora_A", "lora_magnitude_vector", "0"))
                found[at] = TensorSpec(".".join(parts), one.shape, one.encoding)
            case 4:
                del parts[random.randrange(len(parts))]
                found[at] = TensorSpec(".".join(parts), one.shape, one.encoding)
            case _:
                found[at] = TensorSpec(one.name, one.shape, F32)
    return tuple({spec.name: seeds.empty(spec) for spec in found}.values())


def adapter_folder(random: Random, folder: Path) -> None:
    """adapter_config.json and the tensors; told, put on the model, made a GGUF."""
    seed = random.choice(list(_adapters().values()))
    (folder / "adapter_config.json").write_bytes(_adapter_config(seed, random))
    source = replace(
        seed,
        tensors=_changed_tensors(seed.tensors, random),
        files={"adapter_config.json": Memory((folder / "adapter_config.json").read_bytes())},
        path=folder,
    )
    _adapted(source, random)


def _adapter_config(seed: Checkpoint[Tensor], random: Random) -> bytes:
    config = json.loads((seed.path / "adapter_config.json").read_text())
    config |= random.choice(
        (
            {},
            {"rank_pattern": {"^.*layers\\.0": 2}, "alpha_pattern": {"q_proj": 1e30}},
            {"target_parameters": ["experts.gate_up_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
            {"modules_to_save": ["lm_head"], "layers_to_transform": [0], "use_dora": True},
        )
    )
    text = json_text(mutated(config, random) if random.random() < 0.8 else config)
    data = text.encode("utf-8", "surrogatepass")
    return shaken(data, random) if random.random() < 0.1 else data


def adapter_gguf(random: Random, folder: Path) -> None:
    """Key-values and tensors of an adapter as llama.cpp loads it."""
    from tests.fuzz.targets import typed

    metadata = {
        "general.architecture": Typed("str", "llama"),
        "general.type": Typed("str", "adapter"),
        "adapter.type": Typed("str", "lora"),
        "adapter.lora.alpha": Typed("f32", 16.0),
    }
    if random.random() < 0.5:
        metadata[random.choice((*metadata, "adapter.alora.invocation_tokens", "general.name"))] = typed(random)
    shapes = {"blk.0.attn_q.weight": (64, 64), "blk.1.ffn_down.weight": (64, 96), "token_embd.weight": (64, 96)}
    specs = [TensorSpec("blk.0.attn_norm.weight", (64,), F32)]
    for name, (rows, columns) in shapes.items():
        down = (columns, 4) if name.startswith("token") else (4, columns)
        specs += [TensorSpec(f"{name}.lora_a", down, F32), TensorSpec(f"{name}.lora_b", (rows, 4), F32)]
    stated = metadata["general.architecture"].value
    source = Checkpoint(
        Naming.GGML,
        stated if isinstance(stated, str) else "",
        _changed_tensors(map(seeds.empty, specs), random),
        metadata=metadata,
        path=folder,
    )
    _adapted(source, random)


def _adapted(source: Checkpoint[Tensor], random: Random) -> None:
    about(source)
    adapter = adapter_of(source)
    model = _models()[random.choice(("a", "a", "b", "g"))]
    if random.random() < 0.5:
        with_adapter(model, adapter)
    else:
        recipe = random.choice((None, "F16", "Q8_0"))
        plan_text(plan_adapter(adapter, Base(model.tensors, model.config), GGUF, Path("out.gguf"), recipe), 2)


@cache
def _tekken() -> dict[str, Any]:
    """A small tekken.json: every byte, some words, and special tokens."""
    words = [bytes([byte]) for byte in range(256)]
    words += [b"th", b"he", b" t", b"the", b" the", b"er", b"  ", b"\xc3\xa9", b"22"]
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "num_vocab_tokens": len(words),
            "default_vocab_size": len(words) + 5,
            "default_num_special_tokens": 5,
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
            for rank, word in enumerate(words)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": text, "is_control": True}
            for rank, text in enumerate(("<unk>", "<s>", "</s>", "[INST]"))
        ],
        "image": {"image_patch_size": 16},
    }


def tekken_json(random: Random, folder: Path) -> None:
    """Mistral's own tokenizer file, alone in its folder."""
    document = dict(_tekken())
    if random.random() < 0.5:  # the lists are long: most changes would fall on a token in the middle
        key = random.choice(list(document))
        document = {**document, key: mutated(document[key], random)}
    else:
        at = random.randrange(len(document["vocab"]))
        vocab = list(document["vocab"])
        vocab[at] = mutated(vocab[at], random)
        document["vocab"] = vocab
    data = json_text(document).encode("utf-8", "surrogatepass")
    files = {"tekken.json": Memory(shaken(data, random) if random.random() < 0.1 else data)}
    checkpoint: Checkpoint[Tensor] = Checkpoint(Naming.HF, "mistral", (), {}, files=files, path=folder)
    to_ggml(checkpoint, random.choice((None, None, 100, 270, 0, 2000)))


_MODULE: Final = "model.layers.0.mlp.up_proj"


def torchao_metadata(random: Random, folder: Path) -> None:
    """The classes and attributes that `__metadata__` gives of torchao's tensors, and their arrays."""
    kind, codes = random.choice(
        (("Int8Tensor", "I8"), ("IntxUnpackedToInt8Tensor", "I8"), ("Float8Tensor", "F8_E4M3"), ("Int4Tensor", "I32"))
    )
    said = {"_type": kind, "_data": {"block_size": [1, 32], "dtype": {"_type": "torch.dtype", "_data": "bfloat16"}}}
    metadata = {
        f"{_MODULE}.weight": json_text(mutated(said, random) if random.random() < 0.6 else said),
        "tensor_names": json_text(
            mutated([f"{_MODULE}.weight"], random) if random.random() < 0.3 else [f"{_MODULE}.weight"]
        ),
        "format": "pt",
    }
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{_MODULE}._weight_qdata": (codes, (64, 64)),
        f"{_MODULE}._weight_scale": (
            random.choice(("F32", "BF16", "I8")),
            random.choice(((64, 1), (64, 2), (), (64,))),
        ),
        "model.norm.weight": ("BF16", (64,)),
    }
    if random.random() < 0.5:
        arrays[f"{_MODULE}._weight_zero_point"] = (
            random.choice(("I8", "I32", "U8")),
            random.choice(((64, 1), (64, 2))),
        )
    if random.random() < 0.4:
        name = random.choice(list(arrays))
        label, shape = arrays.pop(name)
        other = random.choice((f"{name}_", name.replace("_weight", "_bias"), "._weight_qdata", "_qdata", name))
        arrays[other] = (
            label,
            random.choice((shape, (*shape, 1), (0, 64), tuple(random.choice(INTEGERS[:14]) % 97 for _ in shape))),
        )
    quantization = {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}},
    }
    config = {"model_type": "llama", "hidden_size": 64, "quantization_config": mutated(quantization, random)}
    (folder / "config.json").write_bytes(json_text(config).encode("utf-8", "surrogatepass"))
    tensors = tuple(seeds.dense(name, label, shape, None) for name, (label, shape) in arrays.items())
    typed = {key: Typed("str", text) for key, text in metadata.items()}
    checkpoint = Checkpoint(Naming.HF, "llama", tensors, read_config(folder), metadata=typed, path=folder)
    plan_text(plan_conversion(folded(checkpoint), SAFETENSORS, Path("out"), Request(random.choice(("BF16", None)))), 2)
