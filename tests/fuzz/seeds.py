"""What the fuzz starts from: small valid models of every kind, made of the repository's fixtures and the corpus."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from requant.encodings import DENSE, F32
from requant.errors import UnsupportedError
from requant.formats import FORMATS
from requant.formats.stored import stored_arrays
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.operations.convert import Request, plan_conversion
from requant.sources import Bytes, Memory, Source
from requant.tokenizers import to_hf
from tests.fuzz.mutations import GgufParts, gguf_text
from tests.matrix import readable
from tests.tiny_gguf import vocabulary

FIXTURES = Path(__file__).parents[2] / "fixtures"
CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Zeros:
    """A source of zeros."""

    nbytes: int

    def read_into(self, start: int, out: Bytes) -> None:
        """Fill with zeros."""
        out[...] = 0


def empty(spec: TensorSpec) -> Tensor:
    """A tensor of these parts, all of them zero."""
    return Tensor(spec.name, spec.shape, spec.encoding, {name: Zeros(part.nbytes) for name, part in spec.parts.items()})


#: (expression for the stem of a fixture, key) -> what llama.cpp's converter cannot know, or leaves out, of a folder.
_LEFT_OUT: Mapping[tuple[str, str], Typed] = {
    ("(deepseek3|glm4lite).*", "deepseek2.expert_gating_func"): Typed("u32", 2),
    ("glm4lite", "deepseek2.leading_dense_block_count"): Typed("u32", 1),
    ("exaone", "exaone.attention.layer_norm_rms_epsilon"): Typed("f32", 1e-5),
    ("qwen", "qwen.attention.layer_norm_rms_epsilon"): Typed("f32", 1e-6),
    ("modernbert", "modern-bert.attention.layer_norm_epsilon"): Typed("f32", 1e-5),
}
#: What goes back to a folder by its numbers only, which seeds do not have.
BY_NUMBERS = {"museglimmer"}


@cache
def ggml_models() -> Mapping[str, Checkpoint[Tensor]]:
    """One GGUF of every family, without numbers."""
    found = {}
    for path in sorted((FIXTURES / "architectures").glob("*.json")):
        document = json.loads(path.read_text())
        metadata = {key: Typed(kind, value) for key, (kind, value) in document["metadata"].items()}
        tensors = tuple(empty(TensorSpec(name, tuple(shape), F32)) for name, (shape, *_) in document["tensors"].items())
        architecture = str(metadata["general.architecture"].value)
        metadata |= {key: typed for (stem, key), typed in _LEFT_OUT.items() if re.fullmatch(stem, path.stem)}
        found[path.stem] = Checkpoint(Naming.GGML, architecture, tensors, metadata=metadata, path=Path(path.stem))
    return found


@dataclass(frozen=True, slots=True)
class Folder:
    """An HF folder: what config.json says, its tensors, and the files beside."""

    config: dict[str, Any]
    tensors: tuple[Tensor, ...]
    files: dict[str, bytes]


_ROPES: Mapping[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512},
    "longrope": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "original_max_position_embeddings": 512},
    "dynamic": {"factor": 2.0},
}


@cache
def hf_models() -> Mapping[str, Folder]:
    """One HF folder of every family, without numbers; those that requant makes of the GGUFs."""
    found = {}
    for name, model in ggml_models().items():
        if name in BY_NUMBERS:
            continue
        try:
            plan = plan_conversion(model, FORMATS["safetensors"], Path("out"), Request("BF16"))
        except UnsupportedError:  # factors of a rope that are zero
            continue
        heads = {file.name: file.head for file in plan.layout.files}
        config = json.loads(heads.pop("config.json"))
        files = {file: head for file, head in heads.items() if not file.endswith((".safetensors", ".index.json"))}
        found[name] = Folder(config, tuple(empty(step.target) for step in plan.steps), files)
    for kind, scaling in _ROPES.items():
        for name in ("llama", "phi3", "qwen2"):
            config = {**found[name].config, "rope_scaling": {"rope_type": kind, **scaling}}
            config.pop("rope_parameters", None)
            found[f"{name} {kind}"] = replace(found[name], config=config)
    return found


def hf_checkpoint(folder: Folder, path: Path) -> Checkpoint[Tensor]:
    """The folder as its reader describes it."""
    kind = folder.config.get("model_type")
    files = {name: Memory(data) for name, data in folder.files.items()}
    architecture = kind if isinstance(kind, str) else ""
    return Checkpoint(Naming.HF, architecture, folder.tensors, folder.config, files=files, path=path)


def _vocabulary_metadata(model: str) -> dict[str, Typed]:
    """A small vocabulary for each kind of tokenizer that GGUF has."""
    tokens, scores, types = vocabulary()
    merges = [f"{a} {b}" for a, b in (("a", "b"), ("c", "d"), ("▁", "a"))]
    if model in ("gpt2", "gemma4"):
        tokens = [*("<s>", "</s>", "ab", "cd"), *map(chr, range(33, 127)), *("Ġ", "Ċ", "▁", "▁a")]
        types = [3, 3, *[1] * (len(tokens) - 2)]
    if model == "bert":
        tokens = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *(f"▁{chr(c)}" for c in range(97, 123)),
            *map(chr, range(97, 123)),
        ]
        types = [3, 3, 3, 3, 3, *[1] * 52]
    metadata = {
        "tokenizer.ggml.model": Typed("str", model),
        "tokenizer.ggml.pre": Typed("str", "gpt-2" if model == "gpt2" else "default"),
        "tokenizer.ggml.tokens": Typed("[str]", tokens),
        "tokenizer.ggml.token_type": Typed("[i32]", types),
        "tokenizer.ggml.scores": Typed("[f32]", (scores * 2)[: len(tokens)]),
        "tokenizer.ggml.bos_token_id": Typed("u32", 1),
        "tokenizer.ggml.eos_token_id": Typed("u32", 2),
        "tokenizer.ggml.unknown_token_id": Typed("u32", 0),
        "tokenizer.ggml.add_bos_token": Typed("bool", True),
        "tokenizer.ggml.add_space_prefix": Typed("bool", False),
        "tokenizer.chat_template": Typed("str", "{{ messages }}"),
    }
    if model in ("gpt2", "gemma4"):
        metadata["tokenizer.ggml.merges"] = Typed(
            "[str]", [merge for merge in merges if model == "gemma4" or "▁" not in merge]
        )
    return metadata


@cache
def ggml_tokenizers() -> Mapping[str, dict[str, Typed]]:
    """`tokenizer.*` of every kind."""
    return {model: _vocabulary_metadata(model) for model in ("gpt2", "llama", "gemma4", "bert", "t5")}


@cache
def hf_tokenizers() -> Mapping[str, dict[str, bytes]]:
    """Tokenizer files of every kind: what requant writes for those of GGUF, and what the libraries write."""
    found: dict[str, dict[str, bytes]] = {}
    for name, metadata in ggml_tokenizers().items():
        found[name] = {file: _bytes(source) for file, source in to_hf(metadata).files.items()}
    config = json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True}).encode()
    document = (CORPUS / "tokenizer.json").read_bytes()
    found["library"] = {"tokenizer.json": document, "tokenizer_config.json": config}
    vocab = json.loads(document)["model"]["vocab"]
    found["vocab and merges"] = {
        "vocab.json": json.dumps(vocab).encode(),
        "merges.txt": b"#version: 0.2\nt h\nth e\n",
        "added_tokens.json": b'{"<x>": 270}',
        "tokenizer_config.json": config,
        "special_tokens_map.json": b'{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}}',
        "generation_config.json": b'{"eos_token_id": [1, 2], "top_k": 20, "temperature": 0.7}',
    }
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(c) for c in range(97, 123))]
    found["words"] = {"vocab.txt": "\n".join(words).encode(), "tokenizer_config.json": b'{"do_lower_case": true}'}
    for kind in ("bpe", "unigram"):
        data = (CORPUS / f"{kind}.model").read_bytes()
        found[f"sentencepiece {kind}"] = {"tokenizer.model": data, "tokenizer_config.json": config}
    return found


def _bytes(source: Source) -> bytes:
    out = np.empty(source.nbytes, np.uint8)
    source.read_into(0, out)
    return out.tobytes()


@dataclass(frozen=True, slots=True)
class Quantized:
    """A module as a library stores it: arrays (dtype, shape, bytes or None for zeros), and what config.json says."""

    arrays: dict[str, tuple[str, tuple[int, ...], bytes | None]]
    quantization: dict[str, Any]


_MODULE = "model.layers.0.mlp.up_proj"
_CONFIGS: Mapping[str, dict[str, Any]] = {
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": True,
        "sym": False,
        "checkpoint_format": "gptq",
        "dynamic": {"-:.*gate": {}, r"+:.*\.1\..*": {"bits": 8, "group_size": 64}},
        "meta": {"quantizer": ["gptqmodel:7.0.0"]},
        "extra_config": {_MODULE: {"bits": 4}},
    },
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    },
    "exl2": {"quant_method": "exl2", "bits": 4.0, "head_bits": 6, "calibration": {"rows": 100}},
    "bitsandbytes": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": None,
    },
    "compressed": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head", "re:.*gate"],
        "global_compression_ratio": 1.5,
        "config_groups": {
            "group_0": {
                "targets": ["Linear", "re:.*up_proj"],
                "input_activations": None,
                "output_activations": None,
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": False,
                    "group_size": 64,
                    "strategy": "group",
                    "actorder": None,
                    "dynamic": False,
                },
            }
        },
        "sparsity_config": {"format": "dense"},
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    },
    "modelopt": {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "exclude_modules": ["lm_head*"],
        "producer": {"name": "modelopt"},
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "group_size": 16, "type": "float"}, "targets": ["Linear"]}
        },
    },
    "fp8": {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "modules_to_not_convert": [],
    },
    "hqq": {
        "quant_method": "hqq",
        "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}},
        "skip_modules": [],
    },
    "mlx": {"group_size": 64, "bits": 4, "mode": "affine", f"{_MODULE}": {"group_size": 32, "bits": 8}},
    "quark": {"quant_method": "quark", "export": {"kv_cache_group": []}},
    "torchao": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}},
    },
}
#: Fixtures made by the libraries: file, arrays by their names in it, the config that goes with them.
_MADE: Mapping[str, tuple[str, str, dict[str, str]]] = {
    "gptq": (
        "gptq/gptq_4b_g32_asym_act.npz",
        "gptq",
        {"qweight": "qweight", "qzeros_v2": "qzeros", "scales": "scales", "g_idx": "g_idx"},
    ),
    "marlin": ("gptq/marlin_g128.npz", "gptq", {"B": "B", "s": "s"}),
    "awq": ("awq/gemm_g32.npz", "awq", {"qweight": "qweight", "qzeros": "qzeros", "scales": "scales"}),
    "exl2": (
        "exl2/exl2_mix_8_6_5_4_3_2.npz",
        "exl2",
        {name: name for name in ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm")},
    ),
    "nf4": (
        "bitsandbytes/bnb_nf4_dq_33x65_float16.npz",
        "bitsandbytes",
        {
            name: name
            for name in (
                "weight",
                "weight.absmax",
                "weight.quant_map",
                "weight.nested_absmax",
                "weight.nested_quant_map",
                "weight.quant_state.bitsandbytes__nf4",
            )
        },
    ),
    "int8": ("bitsandbytes/bnb_int8.npz", "bitsandbytes", {"weight": "weight", "SCB": "SCB"}),
    "packed": (
        "compressed/ct_pack_4b_asym_group.npz",
        "compressed",
        {name: name for name in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")},
    ),
    "marlin24": (
        "compressed/ct_marlin24_4b_ch.npz",
        "compressed",
        {name: name for name in ("weight_packed", "scale_packed", "meta")},
    ),
    "hqq": ("hqq/hqq_4b_axis0.npz", "hqq", {name: name for name in ("W_q", "scale", "zero", "shape")}),
}
_LABELS = {
    "float16": "F16",
    "float32": "F32",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "int64": "I64",
}


@cache
def quantized() -> Mapping[str, Quantized]:
    """A module of every scheme."""
    found = {}
    for name, (file, config, names) in _MADE.items():
        arrays = np.load(FIXTURES / "encodings" / file)
        found[name] = Quantized(
            {
                f"{_MODULE}.{stored}": (_LABELS[str(arrays[key].dtype)], arrays[key].shape, arrays[key].tobytes())
                for key, stored in names.items()
            },
            _CONFIGS[config],
        )
    # every other scheme without numbers, with each of the configs in turn
    for index, (label, encoding) in enumerate(readable().items()):
        spec = TensorSpec(f"{_MODULE}.weight", (256, 256), encoding)
        try:
            stored = {array.name: (array.spec.dtype.label, array.spec.shape, None) for array in stored_arrays(spec)}
        except Exception:  # types of GGUF
            continue
        wanted = [key for key in _CONFIGS if key[:3] in label.lower()] or [list(_CONFIGS)[index % len(_CONFIGS)]]
        found[label] = Quantized(stored, _CONFIGS[wanted[0]])
    for key, config in _CONFIGS.items():
        found.setdefault(f"{key} of nothing", Quantized({f"{_MODULE}.weight": ("BF16", (64, 64), None)}, config))
    return found


def dense(name: str, label: str, shape: tuple[int, ...], data: bytes | None) -> Tensor:
    """A stored array."""
    spec = TensorSpec(name, shape, DENSE[label])
    source: Source = Zeros(spec.nbytes) if data is None or len(data) != spec.nbytes else Memory(data)
    return Tensor(name, shape, DENSE[label], {"data": source})


@cache
def gguf_files() -> Mapping[str, GgufParts]:
    """Whole GGUFs: a llama with its vocabulary, one with every kind of value, and an importance matrix."""
    found = {}
    for name in ("llama", "gemma3", "mixtral"):
        model = ggml_models()[name]
        pairs = [
            (key.encode(), *_written(typed)) for key, typed in (model.metadata | ggml_tokenizers()["gpt2"]).items()
        ]
        infos, offset = [], 0
        for tensor in model.tensors:
            infos.append((tensor.name.encode(), tuple(reversed(tensor.shape)), 0, offset))
            offset += -(-tensor.nbytes // 32) * 32
        found[name] = GgufParts(tuple(pairs), tuple(infos), offset)
    values = {f"a.{kind}": Typed(kind, 1) for kind in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "bool")}
    values |= {"a.f32": Typed("f32", 0.5), "a.f64": Typed("f64", 0.5), "general.alignment": Typed("u32", 32)}
    values |= {
        "general.architecture": Typed("str", "llama"),
        "split.count": Typed("u16", 1),
        "split.no": Typed("u16", 0),
    }
    infos = ((b"x", (32,), 0, 0), (b"y", (32, 2), 8, 128))
    importance = {
        "general.type": Typed("str", "imatrix"),
        "imatrix.datasets": Typed("[str]", ["a.txt", "b.txt"]),
        "imatrix.chunk_count": Typed("u32", 7),
        "imatrix.chunk_size": Typed("u32", 512),
    }
    sums = ((b"blk.0.ffn_up.weight.in_sum2", (32, 2), 0, 0), (b"blk.0.ffn_up.weight.counts", (1, 2), 0, 256))
    found["imatrix"] = GgufParts(
        tuple((key.encode(), *_written(typed)) for key, typed in importance.items()), sums, 288
    )
    found["values"] = GgufParts(tuple((key.encode(), *_written(typed)) for key, typed in values.items()), infos, 256)
    return found


def legacy_imatrix() -> bytes:
    """An importance matrix of the old form: two entries, chunks, and the data set's name."""
    out = struct.pack("<i", 2)
    for name, count in ((b"blk.0.attn_q.weight", 8), (b"output.weight", 4)):
        out += (
            struct.pack("<i", len(name))
            + name
            + struct.pack("<2i", 3, count)
            + struct.pack(f"<{count}f", *range(count))
        )
    return out + struct.pack("<2i", 7, 8) + b"text.txt"


_NUMBERS = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "str": 8,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
_FORMS = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "f32": "f",
    "bool": "?",
    "u64": "Q",
    "i64": "q",
    "f64": "d",
}


def _written(typed: Typed) -> tuple[int, bytes]:
    """Type number and payload."""
    if typed.kind.startswith("["):
        inner, items = typed.kind[1:-1], list(typed.value)  # type: ignore[arg-type]
        return 9, struct.pack("<IQ", _NUMBERS[inner], len(items)) + b"".join(
            _written(Typed(inner, item))[1] for item in items
        )
    if typed.kind == "str":
        return 8, gguf_text(str(typed.value).encode())
    return _NUMBERS[typed.kind], struct.pack("<" + _FORMS[typed.kind], typed.value)
