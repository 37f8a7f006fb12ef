"""Options that several commands share, and the values they become."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from requant.errors import FormatError, PlanError
from requant.importance import Importance
from requant.layout import LayoutOptions
from requant.recipes import Overrides, encoding_named, tensor_type, tensor_type_file

F = TypeVar("F", bound=Callable[..., Any])

#: Bytes of the longest text that is read whole.
MAX_TEXT: Final = 64 << 20
#: More would only wait for each other.
MAX_THREADS: Final = 512
#: The largest number of the narrowest float type that weights are kept in, F16.
LARGEST: Final = 65504.0

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _finite(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """What takes the place of NaN must be a number that every type of a tensor can hold."""
    if value is not None and not abs(value) <= LARGEST:
        raise click.BadParameter(f"{value} is not a number from {-LARGEST:g} to {LARGEST:g}")
    return value


#: How to run: shared by every command that writes a checkpoint.
run_options = _all(
    click.option("--dry-run", is_flag=True, help="Print the plan and stop; nothing is written."),
    click.option("--json", "as_json", is_flag=True, help="Print the plan (with --dry-run) or the receipt as JSON."),
    click.option("--force", "-f", is_flag=True, help="Replace what exists at the destination."),
    click.option("--fail-on-loss", is_flag=True, help="Stop if anything would be lost, substituted or rounded twice."),
    click.option(
        "--replace-nan",
        type=float,
        callback=_finite,
        metavar="VALUE",
        help="Write VALUE where a weight is NaN or infinite.",
    ),
    click.option("--threads", "-t", type=click.IntRange(1, MAX_THREADS), help="Threads (default: all processors)."),
    click.option("--quiet", "-q", is_flag=True, help="No progress bar and no receipt."),
)

#: Departures from a recipe, as llama-quantize has them.
recipe_options = _all(
    click.option(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="REGEX=TYPE",
        help="The type of tensors whose GGUF name has a match; the first that matches counts. Repeatable.",
    ),
    click.option(
        "--tensor-type-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file of REGEX=TYPE, separated by spaces or lines; they come after those of --tensor-type.",
    ),
    click.option("--output-tensor-type", metavar="TYPE", help="The type of output.weight."),
    click.option("--token-embedding-type", metavar="TYPE", help="The type of the token embeddings."),
    click.option("--pure", is_flag=True, help="Every tensor as most tensors: no mix."),
    click.option("--leave-output-tensor", is_flag=True, help="Leave output.weight as it is."),
)


#: Which columns matter, as llama-quantize takes it.
importance_options = _all(
    click.option(
        "--imatrix",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="An importance matrix made by llama-imatrix: round where it matters least.",
    ),
    click.option(
        "--include-weights",
        multiple=True,
        metavar="NAME",
        help="Use the importance matrix only for tensors with NAME in their names. Repeatable.",
    ),
    click.option(
        "--exclude-weights",
        multiple=True,
        metavar="NAME",
        help="Do not use the importance matrix for tensors with NAME in their names. Repeatable.",
    ),
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The values of `run_options`."""

    dry_run: bool
    as_json: bool
    force: bool
    fail_on_loss: bool
    replace_nan: float | None
    threads: int | None
    quiet: bool

    @property
    def workers(self) -> int:
        """Threads to use."""
        return self.threads or len(os.sched_getaffinity(0))


def overrides(
    tensor_types: tuple[str, ...],
    output_tensor_type: str | None,
    token_embedding_type: str | None,
    pure: bool,
    leave_output_tensor: bool,
    type_file: Path | None,
) -> Overrides:
    """The values of `recipe_options`."""
    listed = () if type_file is None else tensor_type_file(read_text(type_file))
    return Overrides(
        tensor_types=(*(tensor_type(text) for text in tensor_types), *listed),
        output=None if output_tensor_type is None else encoding_named(output_tensor_type),
        token_embedding=None if token_embedding_type is None else encoding_named(token_embedding_type),
        pure=pure,
        quantize_output=not leave_output_tensor,
    )


def read_text(path: Path) -> str:
    """A text file the user names; raises `FormatError` for what is none."""
    if not path.is_file():  # a device may have no end
        raise FormatError(path, "this is no regular file")
    if path.stat().st_size > MAX_TEXT:
        raise FormatError(path, f"more than {MAX_TEXT >> 20} MB", hint="is this a text file?")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(path, "this is not UTF-8 text", offset=error.start) from None


def importance(imatrix: Path | None, included: tuple[str, ...], excluded: tuple[str, ...]) -> Importance | None:
    """The values of `importance_options`."""
    if included and excluded:
        raise click.UsageError("--include-weights and --exclude-weights cannot be used together")
    if imatrix is None:
        return None
    from requant.formats.imatrix import read_imatrix

    return read_imatrix(imatrix).only(included, excluded)


def cut(max_shard_size: str | None, max_shard_tensors: int | None) -> LayoutOptions:
    """How to cut the output into files.

    >>> cut("2G", None).shard_bytes
    2000000000
    """
    if max_shard_size is None:
        return LayoutOptions(None, max_shard_tensors)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", max_shard_size.strip().upper())
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"{max_shard_size!r} is not a size such as 500M or 5GB", param_hint="--max-shard-size")
    return LayoutOptions(int(float(match[1]) * _UNITS[match[2]]), max_shard_tensors)


def refuse_to_overwrite(destination: Path, force: bool) -> None:
    """An existing file, or a folder with something in it, needs `--force`."""
    taken = (destination.is_dir() and any(destination.iterdir())) or (destination.exists() and not destination.is_dir())
    if taken and not force:
        raise PlanError(f"{destination} exists", hint="--force replaces it")
