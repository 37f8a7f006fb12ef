"""`general.*`: what the model is called, by whom it is, how it likes to be sampled.

The guesses from folder and model names are those of the `gguf` package, so that a file is called what llama.cpp's
converter would call it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Final

from requant.architectures.card import read_card
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
    import gguf

    kind = gguf.GGUFType.MMPROJ if projector else gguf.GGUFType.MODEL

    card, losses = read_card(checkpoint)
    path = named_folder(checkpoint.folder)
    total, shared, expert, experts = _parameters(moves)
    try:
        with _told(losses):
            guess = gguf.Metadata.apply_metadata_heuristic(
                gguf.Metadata(), card, dict(checkpoint.config), path if path.name else None, total
            )
        if guess.name is None:
            guess.name = path.name or architecture
        if guess.size_label is None and total > 0:
            guess.size_label = gguf.size_label(total, shared, expert, experts)
        writer = gguf.GGUFWriter(path=None, arch=architecture)
        writer.add_type(kind)
        guess.set_gguf_meta_model(writer)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # a model card of another shape than it expects
        losses.append(Loss(LossKind.METADATA_DROPPED, "README.md", f"its front matter makes no sense: {error}"))
        writer = gguf.GGUFWriter(path=None, arch=architecture)
        writer.add_type(kind)
        writer.add_name(path.name or architecture)
    found = {key: _typed(value) for key, value in writer.kv_data[0].items()}
    first = {key: found.pop(key) for key in ("general.architecture", "general.type")}
    return first | _sampling(checkpoint) | found, losses


@contextmanager
def _told(losses: list[Loss]) -> Iterator[None]:
    """What the `gguf` package logs of a model card becomes losses: it quotes the card, on the terminal as it is."""
    import logging

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            losses.append(Loss(LossKind.METADATA_DROPPED, "README.md", printable(record.getMessage())))

    logger, teller = logging.getLogger("metadata"), Teller()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.propagate = before


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


def _typed(value: Any) -> Typed:
    """A value of a GGUFWriter: text, lists of text and counts; YAML may have made numbers of either."""
    if value.type.name == "ARRAY":
        return Typed("[str]", [str(item) for item in value.value])
    return Typed("str", str(value.value)) if value.type.name == "STRING" else Typed("u32", int(value.value))
