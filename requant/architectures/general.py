"""`general.*`: what the model is called, by whom it is, how it likes to be sampled.

A file is called what llama.cpp's converter would call it; see `requant.architectures.guessed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Final

from requant.architectures.card import read_card
from requant.architectures.guessed import guessed, size_label
from requant.architectures.numbers import shortest
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.json_values import TOKENIZER, parse_json
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.printable import printable
from requant.sources import Memory, Source, read

#: Sampling parameters that transformers keeps in generation_config.json: HF name, GGUF key, kind.
SAMPLING: Final = (
    ("top_k", "general.sampling.top_k", "i32"),
    ("top_p", "general.sampling.top_p", "f32"),
    ("min_p", "general.sampling.min_p", "f32"),
    ("temperature", "general.sampling.temp", "f32"),
    ("repetition_penalty", "general.sampling.penalty_repeat", "f32"),
)
GENERATION: Final = "generation_config.json"
#: The tokens at which llama.cpp stops because a key names them: of a text, a turn, a message.
_ENDS: Final = ("eos", "eot", "eom")

#: Text files of a model folder larger than this are not read.
_LARGEST: Final = 16 << 20


def general_metadata(
    checkpoint: Checkpoint[Tensor], architecture: str, moves: Sequence[Move], *, projector: bool = False
) -> tuple[dict[str, Typed], list[Loss]]:
    """`general.*` in the order of llama.cpp's converter, without file type and quantization version."""
    card, losses = read_card(checkpoint)
    folder = named_folder(checkpoint.folder).name
    names = [name for name in (_hub_name(checkpoint), folder) if name]
    total, *parts = _parameters(moves)
    label = size_label(total, *parts) if total > 0 else ""
    try:
        found, strange = guessed(card, names, total, label, folder or architecture)
    except TypeError as error:  # a model card of another shape than anybody expects
        found = {"general.name": Typed("str", folder or architecture)}
        strange = [f"its front matter makes no sense: {error}"]
    losses += [Loss(LossKind.METADATA_DROPPED, "README.md", printable(one)) for one in strange]
    kind = "mmproj" if projector else "model"
    first = {"general.architecture": Typed("str", architecture), "general.type": Typed("str", kind)}
    return first | _sampling(checkpoint) | found, losses


def _hub_name(checkpoint: Checkpoint[Tensor]) -> str:
    """What config.json says it was loaded from, if that is no path on somebody's disk."""
    name = checkpoint.config.get("_name_or_path")
    return name if isinstance(name, str) and name.count("/") < 2 else ""


def named_folder(folder: Path) -> Path:
    """The folder whose name tells the model's: the Hub's cache calls it `models--OWNER--NAME/snapshots/COMMIT`."""
    cached = folder.parent.name == "snapshots" and re.fullmatch("models--(.+)--(.+)", folder.parent.parent.name)
    return Path(cached[1], cached[2]) if cached else folder


def generation_config(metadata: Mapping[str, Typed], vocabulary: int) -> dict[str, Source]:
    """generation_config.json: how a GGUF likes to be sampled, and the tokens that end a turn beside `eos`.

    Nothing if there is neither: transformers then goes by config.json. vocabulary: ids from here on are no tokens.
    """
    config: dict[str, Json] = {}
    for hf, ggml, kind in SAMPLING:
        value = metadata[ggml].value if ggml in metadata else None
        if isinstance(value, int | float):
            config[hf] = shortest(value) if kind == "f32" else value
    sampled: dict[str, Json] = {"do_sample": True} if config else {}
    ends = [index for name in _ENDS if (index := _token(metadata, name, vocabulary)) is not None]
    if not config and len(set(ends)) < 2:
        return {}
    first, padding = (_token(metadata, name, vocabulary) for name in ("bos", "padding"))
    tokens: dict[str, Json] = {"bos_token_id": first, "pad_token_id": padding}
    tokens["eos_token_id"] = ends[0] if len(ends) == 1 else [*dict.fromkeys(ends)] or None
    said = {key: value for key, value in (sampled | tokens | config).items() if value is not None}
    return {GENERATION: Memory(json.dumps(said, indent=2).encode() + b"\n")}


def _token(metadata: Mapping[str, Typed], name: str, vocabulary: int) -> int | None:
    """The id of a special token, if the GGUF names it and it exists."""
    typed = metadata.get(f"tokenizer.ggml.{name}_token_id")
    value = None if typed is None else typed.value
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary else None


def json_file(checkpoint: Checkpoint[Tensor], name: str) -> Json:
    """A JSON file beside the weights; None if there is none. Raises `FormatError` if it is no JSON."""
    source = checkpoint.files.get(name)
    if source is None:
        return None
    data = read(source, 0, min(source.nbytes, TOKENIZER.nbytes + 1)).tobytes()
    return parse_json(data, checkpoint.folder / name, TOKENIZER).value


def _sampling(checkpoint: Checkpoint[Tensor]) -> dict[str, Typed]:
    config = json_file(checkpoint, GENERATION)
    if not isinstance(config, dict):
        return {}
    found = {}
    for hf, ggml, kind in SAMPLING:
        value = config.get(hf)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 31:
            found[ggml] = Typed(kind, int(value) if kind == "i32" else float(value))
    return found


def _parameters(moves: Sequence[Move]) -> tuple[int, int, int, int]:
    """Parameters in all, outside experts, in one expert of each layer, and the number of experts."""
    total = shared = expert = stacks = counted = 0
    for move in moves:
        size = prod(move.shape)
        total += size
        if "_exps." in move.name and len(move.shape) > 2:  # biases count as shared
            expert += size // move.shape[0]
            stacks += 1
            counted += move.shape[0]
        else:
            shared += size
    return total, shared, expert, counted // stacks if stacks else 0
