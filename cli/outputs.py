"""What is written: its format, in how many files; with the options of it that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import values
from requant.errors import PlanError

if TYPE_CHECKING:  # whoever asks for help waits for none of these
    from requant.layout import Format, LayoutOptions

#: Formats that can store plain numbers at all; the others are only read.
WRITABLE: Final = ("gguf", "safetensors")

#: Shared by `convert` and `prune`.
recipe_option = click.option(
    "--to",
    "recipe",
    metavar="RECIPE",
    shell_complete=values.recipes,
    help="Q4_K_M, BF16, NF4, ...; without it, exact stays exact.",
)
#: Shared by `convert`, `merge`, `prune` and `student`; see `format_for`.
format_option = click.option(
    "--format", "format_name", type=click.Choice(WRITABLE), help="Default: by the destination's name."
)
#: Shared by `convert`, `merge` and `prune`; see `cut`.
shard_size_option = click.option(
    "--max-shard-size", metavar="SIZE", help="Split into files of at most SIZE, such as 5G."
)
#: Shared by `convert`, `merge` and `prune`.
no_vocab_option = click.option("--no-vocab", is_flag=True, help="Write a GGUF without tokenizer.")


def format_for(destination: Path, name: str | None) -> Format:
    """The format asked for, or the one the destination's name means."""
    from requant.formats import FORMATS

    if name is not None:
        return FORMATS[name]
    suffix = destination.suffix.lower()
    if suffix == ".gguf":
        return FORMATS["gguf"]
    if suffix in (".bin", ".pt", ".pth", ".onnx", ".ggml"):
        raise PlanError(f"{destination}: such files are not written", hint="use .gguf, .safetensors or a folder")
    return FORMATS["safetensors"]


def cut(max_shard_size: str | None, max_shard_tensors: int | None, option: str = "--max-shard-size") -> LayoutOptions:
    """How to cut the output into files.

    >>> cut("2G", None).shard_bytes
    2000000000
    """
    from requant.layout import LayoutOptions

    if max_shard_size is None:
        return LayoutOptions(None, max_shard_tensors)
    return LayoutOptions(size_of(max_shard_size, option), max_shard_tensors)


def size_of(text: str, option: str) -> int:
    """Bytes; raises `click.BadParameter` for what is no size."""
    from requant.digits import size_in_bytes

    nbytes = size_in_bytes(text)
    if nbytes is None:
        raise click.BadParameter(f"{text!r} is not a size such as 500M, 5GB or 5GiB", param_hint=option)
    return nbytes
