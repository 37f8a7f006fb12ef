"""Every reader and planner, each as a function from a `random.Random` to nothing.

A target makes a case and gives it to the code. What the code returns must print; what it raises must be an `Error`.
Anything else is a defect, and the campaign tells the seed that shows it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

import click

from requant.cli import outputs
from requant.cli.execution import plan_text
from requant.cli.inspection import About, metadata_text, summary
from requant.cli.requantize import arguments
from requant.cli.tables import json_text as document_text
from requant.cli.tensor_table import Row, csv_text, ordered, tensor_table
from requant.formats import FORMATS
from requant.formats.folding import folded
from requant.formats.gguf import Gguf
from requant.formats.imatrix import imatrix_checkpoint, read_imatrix
from requant.formats.safetensors.folder import read_config
from requant.formats.safetensors.index import read_index
from requant.hub import HubModel
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.operations import requantize
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from requant.recipes import RECIPES, layers_to_prune, override_kv, recipe_named, tensor_type, tensor_type_file
from requant.schemes import SCHEMES, scheme_named
from requant.sources import Memory
from requant.tokenizers import to_ggml, to_hf
from tests.fuzz import libraries, seeds
from tests.fuzz.mutations import (
    INTEGERS,
    TEXTS,
    GgufParts,
    json_text,
    mutated,
    mutated_gguf,
    shaken,
)

Target = Callable[[Random, Path], None]

GGUF, SAFETENSORS = FORMATS["gguf"], FORMATS["safetensors"]
#: Where plans lead; nothing is ever written there.
OUT: Final = Path("out")
#: What plans are made for: (format, recipe), one drawn for each case.
TO_GGUF: Final = ("Q4_K_M", "Q8_0", "COPY", "IQ2_XS", "F16", "MXFP4", "TQ1_0")
TO_HF: Final = ("BF16", "F16", None, "GPTQ-4-32", "NF4", "W8A16", "FP8", "AWQ-4-32")


def looked_at(checkpoint: Checkpoint[Tensor], random: Random) -> None:
    """What `inspect` counts of it, and now and then all that it prints."""
    found = report(checkpoint, "fuzz")
    if random.random() < 0.15:
        about, order = About.of(checkpoint), ordered(None, random.choice((None, "tensor", "-bytes")))
        rows = order.rows([Row(placed) for placed in found.placed[:50]])
        summary(found, about)
        tensor_table(rows, order, values=False)
        csv_text(rows, order, values=False)
        metadata_text(found)
        tensors = [row.placed.to_json(row.figures) for row in rows]
        document_text({**found.to_json(), **about.to_json(), "tensors": tensors})


def planned(checkpoint: Checkpoint[Tensor], random: Random, *, vocabulary: bool = True) -> None:
    """A plan to somewhere, printed."""
    if random.random() < 0.6:
        request = Request(random.choice(TO_GGUF), vocabulary=vocabulary)
        plan = plan_conversion(checkpoint, GGUF, OUT.with_suffix(".gguf"), request)
    else:
        plan = plan_conversion(checkpoint, SAFETENSORS, OUT, Request(random.choice(TO_HF)))
    if random.random() < 0.1:
        plan_text(plan, 2)
        document_text(plan.to_json())


def _seed(random: Random, found: Mapping[str, object]) -> str:
    return random.choice(list(found))


def gguf_file(random: Random, folder: Path) -> None:
    """Header, key-values, tensor infos, shards; then everything that reads a GGUF."""
    path = folder / random.choice(("a.gguf", "a.gguf", "a-00001-of-00001.gguf", "a-00001-of-00002.gguf"))
    _write_gguf(path, seeds.gguf_files()[_seed(random, seeds.gguf_files())], random)
    checkpoint = Gguf().read(path)
    looked_at(checkpoint, random)
    if random.random() < 0.3:
        planned(checkpoint, random)
    else:
        request = requantize.Request(random.choice(("Q4_K_M", "Q8_0", "COPY")))
        plan_text(requantize.plan_requantization(checkpoint, GGUF, OUT.with_suffix(".gguf"), request), 2)


def _write_gguf(path: Path, parts: GgufParts, random: Random) -> None:
    head = mutated_gguf(parts, random)
    with path.open("wb") as file:
        file.write(head)
        if random.random() < 0.9:
            file.truncate(len(head) + parts.nbytes)


def safetensors_file(random: Random, folder: Path) -> None:
    """A header of JSON, its length, and the data."""
    header = {
        "__metadata__": {"format": "pt", "requant.gguf": '{"general.license": ["str", "mit"]}'},
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [32, 48]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [48, 56]},
    }
    text = json_text(mutated(header, random)).encode("utf-8", "surrogatepass")
    if random.random() < 0.2:
        text = shaken(text, random)
    length = len(text) if random.random() < 0.9 else random.choice(INTEGERS) & (2**64 - 1)
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text + b"\0" * random.choice((56, 56, 56, 55, 57, 0)))
    looked_at(SAFETENSORS.read(path), random)


def index_file(random: Random, folder: Path) -> None:
    """`model.safetensors.index.json`."""
    document = {
        "metadata": {"total_size": 56},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    path = folder / "model.safetensors.index.json"
    path.write_bytes(json_text(mutated(document, random)).encode("utf-8", "surrogatepass"))
    read_index(path)


def torch_file(random: Random, folder: Path) -> None:
    """The archive, and the program inside with its checksum put right."""
    seed = random.choice(("views.bin", "nested.bin", "linear.bin"))
    data = _corpus(seed)
    inside = random.random() < 0.75
    data = _with_program(data, shaken(_program(data), random)) if inside else shaken(data, random)
    path = folder / "pytorch_model.bin"
    path.write_bytes(data)
    checkpoint = FORMATS["torch"].read(path)
    looked_at(checkpoint, random)
    for tensor in checkpoint.tensors:
        if tensor.nbytes < 1 << 16:
            _read(tensor)


def _read(tensor: Tensor) -> None:
    """The bytes of a small tensor."""
    from requant.sources import read

    for source in tensor.sources.values():
        read(source)


@cache
def _corpus(name: str) -> bytes:
    return (seeds.CORPUS / name).read_bytes()


def _program_place(data: bytes) -> tuple[int, int]:
    """Where the first member, `data.pkl`, lies."""
    name, extra = struct.unpack_from("<HH", data, 26)
    (nbytes,) = struct.unpack_from("<I", data, 18)
    start = 30 + name + extra
    if not nbytes or nbytes == 0xFFFFFFFF:  # told behind the data, and in the directory
        at = data.rfind(b"PK\x01\x02", 0, data.index(b"PK\x01\x02") + 4)
        (nbytes,) = struct.unpack_from("<I", data, at + 24)
    return start, nbytes


def _program(data: bytes) -> bytes:
    start, nbytes = _program_place(data)
    return data[start : start + nbytes]


def _with_program(data: bytes, program: bytes) -> bytes:
    """The archive with another program of the same length."""
    start, nbytes = _program_place(data)
    program = program[:nbytes].ljust(nbytes, b".")
    out = bytearray(data)
    out[start : start + nbytes] = program
    at = out.index(b"PK\x01\x02")
    out[at + 16 : at + 20] = struct.pack("<I", zlib.crc32(program))
    return bytes(out)


def imatrix_legacy(random: Random, folder: Path) -> None:
    """The old form of importance matrices."""
    path = folder / "imatrix.dat"
    path.write_bytes(shaken(seeds.legacy_imatrix(), random))
    _imatrix(path, random)


def imatrix_gguf(random: Random, folder: Path) -> None:
    """The form of today."""
    path = folder / "imatrix.gguf"
    _write_gguf(path, seeds.gguf_files()["imatrix"], random)
    _imatrix(path, random)


def _imatrix(path: Path, random: Random) -> None:
    importance = read_imatrix(path)
    looked_at(imatrix_checkpoint(importance), random)
    if random.random() < 0.2:
        model = seeds.ggml_models()["mixtral"]
        plan_text(plan_conversion(model, GGUF, OUT.with_suffix(".gguf"), Request("IQ2_XS", importance=importance)), 2)


def config_json(random: Random, folder: Path) -> None:
    """config.json of every family, as text; then `inspect`, and a plan."""
    seed = seeds.hf_models()[_seed(random, seeds.hf_models())]
    text = json_text(mutated(seed.config, random)).encode("utf-8", "surrogatepass")
    (folder / "config.json").write_bytes(shaken(text, random) if random.random() < 0.05 else text)
    _planned_folder(replace(seed, config=read_config(folder)), folder, random)


def _planned_folder(seed: seeds.Folder, folder: Path, random: Random) -> None:
    checkpoint = folded(seeds.hf_checkpoint(seed, folder))
    looked_at(checkpoint, random)
    planned(checkpoint, random, vocabulary=False)


def side_files(random: Random, folder: Path) -> None:
    """What lies beside config.json: model card, sampling, modules of sentence-transformers, templates."""
    name = random.choice(("llama", "bert", "qwen3"))
    seed = seeds.hf_models()[name]
    files = {
        "generation_config.json": {
            "top_k": 20,
            "top_p": 0.9,
            "temperature": 0.7,
            "eos_token_id": [1, 2],
            "do_sample": True,
        },
        "modules.json": [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        "quantize_config.json": {"bits": 4, "group_size": 128},
        "README.md": {
            "license": "mit",
            "tags": ["a", "b"],
            "base_model": ["org/model"],
            "language": "en",
            "datasets": "x/y",
        },
    }
    data = {}
    for file, document in files.items():
        text = json_text(mutated(document, random) if random.random() < 0.5 else document)
        if file == "README.md":
            text = f"---\n{text}\n---\nText.\n"
        raw = text.encode("utf-8", "surrogatepass")
        data[file] = shaken(raw, random) if random.random() < 0.1 else raw
    _planned_folder(replace(seed, files=data), folder, random)


def ggml_metadata(random: Random, folder: Path) -> None:
    """Key-values of every family, of all types; then `inspect`, and a plan back to Hugging Face."""
    models = seeds.ggml_models()
    model = models[_seed(random, models)]
    metadata = dict(model.metadata)
    if random.random() < 0.3:
        metadata |= seeds.ggml_tokenizers()[_seed(random, seeds.ggml_tokenizers())]
    for _ in range(random.choice((1, 1, 2, 4))):
        key = random.choice(list(metadata)) if random.random() < 0.9 else f"{model.architecture}.{random.choice(_KEYS)}"
        if random.random() < 0.15:
            metadata.pop(key, None)
        else:
            metadata[key] = typed(random)
    tensors = list(model.tensors)
    if random.random() < 0.2:
        at = random.randrange(len(tensors))
        tensors[at : at + 1] = random.choice(([], [tensors[at]] * 2, [replace(tensors[at], name=random.choice(TEXTS))]))
    stated = metadata.get("general.architecture", Typed("str", "")).value
    architecture = stated if isinstance(stated, str) else ""
    checkpoint = replace(model, metadata=metadata, architecture=architecture, tensors=tuple(tensors), path=folder)
    looked_at(checkpoint, random)
    planned(checkpoint, random)


_KEYS = (
    *("context_length", "rope.scaling.type", "rope.scaling.factor", "attention.sliding_window", "expert_count"),
    *("attention.head_count_kv", "rope.dimension_count", "vocab_size", "attention.causal", "pooling_type"),
    *("attention.sliding_window_pattern", "expert_weights_scale", "logit_scale", "rope.freq_base_swa"),
)
_KINDS = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "str")
_BITS = {"u8": (0, 255), "i8": (-128, 127), "u16": (0, 65535), "i16": (-32768, 32767), "u32": (0, 2**32 - 1)}
_BITS |= {"i32": (-(2**31), 2**31 - 1), "u64": (0, 2**64 - 1), "i64": (-(2**63), 2**63 - 1)}


def typed(random: Random) -> Typed:
    """A value such as the reader gives: of its kind, whatever that is."""
    kind = random.choice(_KINDS)
    if random.random() < 0.25:
        value: object = [_of_kind(kind, random) for _ in range(random.choice((0, 1, 2, 2, 8, 40)))]
        if random.random() < 0.1:
            return Typed(f"[[{kind}]]", [value, value])
        return Typed(f"[{kind}]", value)  # type: ignore[arg-type]
    return Typed(kind, _of_kind(kind, random))  # type: ignore[arg-type]


def _of_kind(kind: str, random: Random) -> object:
    if kind in _BITS:
        low, high = _BITS[kind]
        return min(max(random.choice(INTEGERS), low), high)
    if kind == "bool":
        return random.random() < 0.5
    if kind == "str":
        text = random.choice(TEXTS)
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    return random.choice((0.0, 0.5, 1e30, -1.5, float("inf"), float("-inf"), float("nan"), 1e-30, 8.0))


def hf_tokenizer(random: Random, folder: Path) -> None:
    """The tokenizer files of a folder."""
    files = dict(seeds.hf_tokenizers()[_seed(random, seeds.hf_tokenizers())])
    config: dict = {
        "model_type": random.choice(("llama", "bert", "gpt2", "gpt_oss", "gemma3_text")),
        "eos_token_id": [1, 2],
    }
    for _ in range(random.choice((1, 1, 2))):
        name = _seed(random, files)
        if name.endswith(".json"):
            document = json.loads(files[name]) if _is_json(files[name]) else {}
            text = json_text(mutated(document, random)).encode("utf-8", "surrogatepass")
            files[name] = shaken(text, random) if random.random() < 0.05 else text
        else:
            files[name] = shaken(files[name], random)
    if random.random() < 0.2:
        parsed = mutated(config, random)
        config = parsed if isinstance(parsed, dict) and not _has_raw(parsed) else config
    rows = random.choice((None, None, 100, 300, 0, 2000))
    sources = {name: Memory(data) for name, data in files.items()}
    kind = config.get("model_type")
    checkpoint: Checkpoint[Tensor] = Checkpoint(
        Naming.HF, kind if isinstance(kind, str) else "", (), config, files=sources, path=folder
    )
    to_ggml(checkpoint, rows)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _has_raw(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_raw, value.values()))
    return any(map(_has_raw, value)) if isinstance(value, list) else not isinstance(value, str | int | float | None)


def ggml_tokenizer(random: Random, folder: Path) -> None:
    """`tokenizer.*` metadata."""
    metadata = dict(seeds.ggml_tokenizers()[_seed(random, seeds.ggml_tokenizers())])
    for _ in range(random.choice((1, 1, 2))):
        key = _seed(random, metadata)
        old = metadata[key]
        if old.kind == "[str]" and random.random() < 0.5:
            value = list(old.value)  # type: ignore[arg-type]
            at = random.randrange(max(1, len(value)))
            value[at : at + 1] = random.choice(([], [random.choice(TEXTS)], [value[0]] * 2 if value else []))
            metadata[key] = Typed("[str]", value)
        elif random.random() < 0.2:
            del metadata[key]
        else:
            metadata[key] = typed(random)
    if metadata:
        to_hf(metadata)


def quantized_folder(random: Random, folder: Path) -> None:
    """A module of every scheme: its arrays renamed, reshaped, retyped, lost; its config changed."""
    models = seeds.quantized()
    one = models[_seed(random, models)]
    arrays = dict(one.arrays)
    if random.random() < 0.4:
        name = random.choice(list(arrays))
        label, shape, data = arrays.pop(name)
        match random.randrange(6):
            case 0:
                pass
            case 1:
                arrays[name + random.choice(("_scale", ".weight", "s", ".0", "_packed"))] = (label, shape, data)
            case 2:
                arrays[name] = (
                    random.choice(("F32", "F16", "BF16", "I32", "U8", "F8_E4M3", "I64", "BOOL", "F8_E8M0")),
                    shape,
                    data,
                )
            case 3:
                sizes = tuple(random.choice((n, n + 1, n // 2, 1, 0)) for n in shape)
                arrays[name] = (label, sizes, data)
            case 4:
                arrays[name] = (label, random.choice(((*shape, 1), shape[1:], (1, *shape), ())), data)
            case _:
                arrays[name] = (
                    label,
                    shape,
                    None if data is None else shaken(data, random)[: len(data)].ljust(len(data), b"\0"),
                )
    config: dict = {"model_type": "llama", "hidden_size": 256, "quantization_config": one.quantization}
    if "of nothing" not in str(one) and random.random() < 0.2:
        config = {"model_type": "llama", random.choice(("quantization", "compression_config")): one.quantization}
    if random.random() < 0.7:
        config = {**config, "quantization_config": mutated(one.quantization, random)}
    (folder / "config.json").write_bytes(json_text(config).encode("utf-8", "surrogatepass"))
    tensors = [seeds.dense(name, *array) for name, array in arrays.items()]
    tensors.append(seeds.dense("model.norm.weight", "BF16", (64,), None))
    parsed = read_config(folder)
    kind = parsed.get("model_type")
    checkpoint = Checkpoint(Naming.HF, kind if isinstance(kind, str) else "", tuple(tensors), parsed, path=folder)
    checkpoint = folded(checkpoint)
    looked_at(checkpoint, random)
    planned(checkpoint, random, vocabulary=False)


_WORDS: Final = (
    *(
        "blk",
        ".",
        "attn_v",
        "ffn_down",
        "=",
        ":",
        "q8_0",
        "Q4_K",
        "q4_k_m",
        ",",
        "-",
        "0",
        "1",
        "30",
        "5G",
        "M",
        "int",
        "bool",
    ),
    *(
        "true",
        "str",
        "float",
        "nan",
        "inf",
        "1e999",
        "COPY",
        "GPTQ",
        "4",
        "128",
        "EXL2",
        "4.0",
        "NF4",
        "DQ",
        "org/model",
        "@",
        "/",
        "(",
        ")",
    ),
    *(
        "[",
        "]",
        "\\",
        "*",
        "+",
        "?",
        "{",
        "}",
        "[:alpha:]",
        "[[:digit:]]",
        "^",
        "$",
        "|",
        " ",
        "\n",
        "\t",
        "é",
        "²",
        "\0",
        "\ud800",
        "9" * 400,
        "9" * 5000,
    ),
)


def words(random: Random, folder: Path) -> None:
    """What users write after options."""
    recipes = [*RECIPES, *(form for family in SCHEMES.values() for form in family.forms)]
    text = "".join(random.choice(_WORDS) for _ in range(random.choice((1, 2, 3, 4, 6))))
    if random.random() < 0.3:
        one = random.choice(recipes)
        at = random.randrange(len(one) + 1)
        text = one[:at] + random.choice(_WORDS) + one[at + random.randrange(2) :]
    with suppress(click.ClickException):
        _read_as_option(text, random)


def _read_as_option(text: str, random: Random) -> None:
    match random.randrange(9):
        case 0:
            tensor_type(text)
        case 1:
            tensor_type_file(text)
        case 2:
            override_kv(
                random.choice((text, f"a.b={text}", f"a={random.choice(('int', 'float', 'bool', 'str'))}:{text}"))
            )
        case 3:
            layers_to_prune(text)
        case 4:
            recipe_named(text)
        case 5:
            scheme_named(text)
        case 6:
            outputs.cut(text, None)
        case 7:
            HubModel.named(text)
        case _:
            arguments(
                Path("a.gguf"), tuple(random.choice((text, "Q8_0", "4", "b.gguf")) for _ in range(random.randrange(4)))
            )


def recipe_of_folder(random: Random, folder: Path) -> None:
    """Any name of a recipe, for a model of any family."""
    models = seeds.hf_models()
    seed = models[_seed(random, models)]
    checkpoint = Checkpoint(Naming.HF, str(seed.config.get("model_type")), seed.tensors, seed.config, path=folder)
    name = "-".join(
        random.choice((*SCHEMES, *map(str, INTEGERS[:20]), "ASYM", "V2", "BLOCK", "DQ", "4.0", "nan", ""))
        for _ in range(3)
    )
    plan_text(plan_conversion(checkpoint, SAFETENSORS, OUT, Request(name)), 2)


#: Every target, and how many cases of a hundred it gets: what is cheap gets more.
TARGETS: Final[Mapping[str, tuple[Target, int]]] = {
    "gguf file": (gguf_file, 6),
    "safetensors file": (safetensors_file, 14),
    "index": (index_file, 14),
    "torch file": (torch_file, 10),
    "imatrix.dat": (imatrix_legacy, 10),
    "imatrix.gguf": (imatrix_gguf, 10),
    "config.json": (config_json, 4),
    "side files": (side_files, 1),
    "gguf metadata": (ggml_metadata, 4),
    "hf tokenizer": (hf_tokenizer, 2),
    "gguf tokenizer": (ggml_tokenizer, 12),
    "quantized folder": (quantized_folder, 4),
    "words": (words, 8),
    "recipes": (recipe_of_folder, 1),
    "merge recipe": (libraries.merge_recipe, 2),
    "pipeline recipe": (libraries.pipeline_recipe, 8),
    "adapter folder": (libraries.adapter_folder, 2),
    "adapter gguf": (libraries.adapter_gguf, 2),
    "tekken.json": (libraries.tekken_json, 2),
    "torchao": (libraries.torchao_metadata, 2),
}
