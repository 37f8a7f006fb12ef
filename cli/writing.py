"""Options of the commands that write a model, and the values they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import paths, values
from requant.cli.options import MAX_THREADS, gathered, html_option, read_text
from requant.errors import PlanError
from requant.system import processors

if TYPE_CHECKING:  # whoever asks for help waits for none of these
    from requant.importance import Importance
    from requant.ir import Checkpoint, Tensor, Typed
    from requant.layout import Format
    from requant.plan import Plan
    from requant.recipes import Overrides

#: The largest number of the narrowest float type that weights are kept in, F16.
LARGEST: Final = 65504.0
#: Under this name a `RoundingCommand` keeps the order of its options.
_ORDER: Final = "requant.order"
#: And under this one all words that it was given.
_WORDS: Final = "requant.words"


def _finite(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """What takes the place of NaN must be a number that every type of a tensor can hold."""
    if value is not None and not abs(value) <= LARGEST:
        raise click.BadParameter(f"{value} is not a number from {-LARGEST:g} to {LARGEST:g}")
    return value


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run."""

    dry_run: bool
    tensors: bool
    explain: bool
    as_json: bool
    force: bool
    resume: bool
    dask: str | None
    fail_on_loss: bool
    replace_nan: float | None
    threads: int | None
    html: Path | None
    quiet: bool

    def __post_init__(self) -> None:
        """`UsageError` for what has no say without another option."""
        if self.tensors and not self.dry_run:
            raise click.UsageError("--tensors goes with --dry-run")

    @property
    def workers(self) -> int:
        """Threads to use."""
        return self.threads or processors()


#: Shared by every command that writes a checkpoint.
run_options = gathered(
    "how",
    RunOptions,
    click.option("--dry-run", is_flag=True, help="Print the plan and stop; nothing is written."),
    click.option("--tensors", is_flag=True, help="With --dry-run: a line for each tensor, not for each kind of them."),
    click.option("--explain", is_flag=True, help="Print the passes by which the plan is made, and what each did."),
    click.option("--json", "as_json", is_flag=True, help="Print the plan (with --dry-run) or the receipt as JSON."),
    click.option("--force", "-f", is_flag=True, help="Replace what exists at the destination."),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on where the same command was killed, with DESTINATION.partial (a file or a folder), which a run "
        "without --resume removes. Interrupted, it keeps what is finished.",
    ),
    click.option(
        "--dask",
        metavar="ADDRESS",
        help="Do the work on the Dask cluster there, such as tcp://host:8786, over storage that its machines share.",
    ),
    click.option("--fail-on-loss", is_flag=True, help="Stop if anything would be lost, substituted or rounded twice."),
    click.option(
        "--replace-nan",
        type=float,
        callback=_finite,
        metavar="VALUE",
        help="Write VALUE where a weight is NaN or infinite.",
    ),
    click.option("--threads", "-t", type=click.IntRange(1, MAX_THREADS), help="Threads (default: all processors)."),
    html_option,
    click.option("--quiet", "-q", is_flag=True, help="No progress bar and no receipt."),
)


class RoundingCommand(click.Command):
    """Remembers in which order options came, for `Choices`, and all words, for `words`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parsed once more for the order, which click keeps to itself."""
        ctx.meta[_WORDS] = tuple(args)
        ctx.meta[_ORDER] = [option.name for option in self.make_parser(ctx).parse_args(list(args))[2]]
        return super().parse_args(ctx, args)


def words() -> tuple[str, ...]:
    """What a `RoundingCommand` was given, as typed."""
    found: tuple[str, ...] = click.get_current_context().meta[_WORDS]
    return found


@dataclass(frozen=True, slots=True)
class Choices:
    """How to round: departures from a recipe, and which columns matter, as llama-quantize takes them."""

    tensor_types: tuple[str, ...]
    tensor_type_files: tuple[Path, ...]
    output_tensor_type: str | None
    token_embedding_type: str | None
    pure: bool
    leave_output_tensor: bool
    imatrix: str | None
    include_weights: tuple[str, ...]
    exclude_weights: tuple[str, ...]

    def overrides(self) -> Overrides:
        """The departures; reads each --tensor-type-file in its place, for the first expression that fits decides."""
        from requant.recipes import Overrides, encoding_named, tensor_type, tensor_type_file

        output, embedding = self.output_tensor_type, self.token_embedding_type
        given = {
            "tensor_types": ((tensor_type(text),) for text in self.tensor_types),
            "tensor_type_files": (tensor_type_file(read_text(file)) for file in self.tensor_type_files),
        }
        order = (name for name in click.get_current_context().meta[_ORDER] if name in given)
        return Overrides(
            tensor_types=tuple(chain.from_iterable(next(given[name]) for name in order)),
            output=None if output is None else encoding_named(output),
            token_embedding=None if embedding is None else encoding_named(embedding),
            pure=self.pure,
            quantize_output=not self.leave_output_tensor,
        )

    def importance(self) -> Importance | None:
        """What --imatrix says of the tensors that are to heed it."""
        if self.include_weights and self.exclude_weights:
            raise click.UsageError("--include-weights and --exclude-weights cannot be used together")
        if self.imatrix is None and (self.include_weights or self.exclude_weights):
            raise click.UsageError("--include-weights and --exclude-weights go with --imatrix")
        if self.imatrix is None:
            return None
        from requant.formats.imatrix import read_imatrix

        importance = replace(read_imatrix(Path(self.imatrix)), source=self.imatrix)  # a Path would lose its "./"
        return importance.only(self.include_weights, self.exclude_weights)


#: Shared by every command that may quantize.
rounding_options = gathered(
    "choices",
    Choices,
    click.option(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="REGEX=TYPE",
        help="The type of tensors whose GGUF name has a match; the first that matches counts. Repeatable.",
    ),
    click.option(
        "--tensor-type-file",
        "tensor_type_files",
        multiple=True,
        type=paths.FILE,
        help="A file of REGEX=TYPE, separated by spaces or lines, as if all were given here. Repeatable.",
    ),
    click.option(
        "--output-tensor-type", metavar="TYPE", shell_complete=values.types, help="The type of output.weight."
    ),
    click.option(
        "--token-embedding-type", metavar="TYPE", shell_complete=values.types, help="The type of the token embeddings."
    ),
    click.option("--pure", is_flag=True, help="Every tensor as most tensors: no mix."),
    click.option("--leave-output-tensor", is_flag=True, help="Leave output.weight as it is."),
    click.option(
        "--imatrix",
        type=paths.Existing(exists=True, dir_okay=False),
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
class CardOptions:
    """Whether to write a model card, and what it is to say besides; see `requant.cli.carded`."""

    card: bool
    card_settings: tuple[str, ...]


#: Shared by `convert` and `merge`.
stream_option = click.option(
    "--stream", is_flag=True, help="Fetch tensors of the Hub when they are needed, and keep no copy (as hf:// does)."
)

#: Shared by `convert` and `requantize`.
card_options = gathered(
    "card",
    CardOptions,
    click.option("--card", is_flag=True, help="Write README.md, a model card as the Hugging Face Hub reads it, too."),
    click.option(
        "--card-set",
        "card_settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Metadata of the card, such as quantized_by=me; without VALUE, KEY is left out. Repeatable.",
    ),
)


@dataclass(frozen=True, slots=True)
class GgufOptions:
    """What can be asked of a GGUF, whatever it is made of."""

    like: Path | None
    key_values: tuple[str, ...]
    ollama: bool

    def check(self, target: Format, projector: bool = False) -> None:
        """`PlanError` where no GGUF is made, or one that a Modelfile is not for."""
        is_gguf = target.name == "gguf"
        if self.key_values and not is_gguf:
            raise PlanError(
                "--override-kv sets metadata of a GGUF; a Hugging Face folder has config.json",
                hint="edit config.json, or let the destination's name end in .gguf",
            )
        if self.ollama and (projector or not is_gguf):
            raise PlanError("--ollama is for a text model that becomes a GGUF", hint="let the destination end in .gguf")

    def liked(self, choices: Choices) -> tuple[Checkpoint[Tensor] | None, Overrides]:
        """The GGUF whose types are copied, and the departures from a recipe: `choices`, and what another one gives."""
        from requant import formats
        from requant.recipes import tensor_type_file

        overrides = choices.overrides()
        if self.like is None:
            return None, overrides
        if self.like.is_file() and self.like.suffix.lower() == ".txt":
            types = tensor_type_file(read_text(self.like))
            return None, replace(overrides, tensor_types=(*overrides.tensor_types, *types))
        return formats.open(self.like), overrides

    def metadata(self) -> tuple[tuple[str, Typed], ...]:
        """What each `--override-kv` sets."""
        from requant.recipes import override_kv

        return tuple(override_kv(text, read_text) for text in self.key_values)


#: Shared by every command that makes a GGUF; `requant.ollama` makes the Modelfile.
gguf_options = gathered(
    "gguf",
    GgufOptions,
    click.option(
        "--like",
        metavar="FILE",
        type=paths.ANYTHING,
        help="Copy the types of another GGUF's tensors, or of a recipe .txt.",
    ),
    click.option(
        "--override-kv",
        "key_values",
        multiple=True,
        metavar="KEY=TYPE:VALUE",
        help="Set metadata of a GGUF; TYPE is int, float, bool or str, str:@FILE what is in a file. Repeatable.",
    ),
    click.option("--ollama", is_flag=True, help="Also write a Modelfile for Ollama beside the GGUF (requant[html])."),
)


def _layers(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    from requant.recipes import layers_to_prune

    return () if value is None else layers_to_prune(value)


#: Shared by every command that makes a GGUF of one model.
prune_option = click.option(
    "--prune-layers",
    "prune",
    callback=_layers,
    metavar="L0,L1,...",
    help="Leave these layers out of a GGUF and number the rest anew.",
)


def beside(plan: Plan, ollama: bool, *, several: bool = False) -> Plan:
    """The plan with what `--ollama` asks for. several: there are other GGUFs."""
    if not ollama:
        return plan
    from requant.ollama.beside import with_modelfile

    return with_modelfile(plan, several=several)
