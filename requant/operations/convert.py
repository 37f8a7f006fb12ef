"""Any readable checkpoint to any writable format: everything decided, nothing done.

What happens on the way is a list of passes, one for each direction. Architectures, tokenizers and schemes are imported
by the passes that need them: they are half of the time in which a command starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from requant.encodings import Dense
from requant.errors import PlanError
from requant.formats import format_named
from requant.importance import Importance
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.layout import Format, LayoutOptions
from requant.nearest import did_you_mean
from requant.passes import Pass, planned
from requant.passes.agreement import Agreement
from requant.passes.claim import Claim
from requant.passes.companions import DropScales, FoldScales, OutputScale, ScalesBeside
from requant.passes.layout import Place
from requant.passes.losses import Losses, UnusedImportance
from requant.passes.metadata import ConvertedMetadata
from requant.passes.names import FamilyNames, OwnNames, PrunedMetadata, PrunedNames
from requant.passes.recipe import Mix
from requant.passes.spellings import Spellings
from requant.passes.steps import Steps
from requant.passes.tokenizer import TokenizerToGgml, TokenizerToHf
from requant.passes.translation import Besides, Family, General, Hyperparameters, Leftovers, Names
from requant.passes.unwrap import Unwrap
from requant.plan import Plan, unchanged
from requant.recipes import Overrides, pruned_name, recipe_named

if TYPE_CHECKING:
    from requant.feedback import Feedback, Smoothing
    from requant.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for besides source and destination.

    recipe: a name as users type it; None keeps what can be kept. importance: from an imatrix file.
    key_values: metadata to set in a GGUF (`--override-kv`). vocabulary: False leaves the tokenizer out of a GGUF.
    projector: of a model that sees or hears, what does, instead of its text model (`--mmproj`). mmproj: a GGUF of that
    kind, which makes a folder together with the source (`--with-mmproj`). like: a GGUF whose
    tensors' types are copied (`--like`); what it has not follows the recipe. prune: layers to leave out of a GGUF.
    feedback: by names of GGML. smoothing: of inputs, by the importance.
    rehearsal: the plan will not be run, so that it may lack importance data, and nothing is measured.
    """

    recipe: str | None = None
    overrides: Overrides = Overrides()
    importance: Importance | None = None
    key_values: tuple[tuple[str, Typed], ...] = ()
    cut: LayoutOptions = LayoutOptions()
    vocabulary: bool = True
    projector: bool = False
    mmproj: Checkpoint[Tensor] | None = None
    like: Checkpoint[Tensor] | None = None
    prune: tuple[int, ...] = ()
    feedback: Feedback | None = None
    smoothing: Smoothing | None = None
    rehearsal: bool = False


def plan_conversion(
    source: Checkpoint[Tensor], target: Format | str, destination: Path | str, request: Request = Request()
) -> Plan:
    """Decide how `source` becomes `destination`; raises `PlanError` or `UnsupportedError` for whatever cannot be.

    target: one of `requant.FORMATS`, or its name: "gguf", "safetensors".
    """
    target, destination = format_named(target), Path(destination)
    listed = LISTS[source.naming, target.naming]
    if request.projector:
        if (source.naming, target.naming) != (Naming.HF, Naming.GGML):
            raise PlanError(
                f"--mmproj makes a GGUF of a Hugging Face folder; {source.path} or {destination} is none",
                hint="requant convert FOLDER mmproj.gguf --mmproj",
            )
        listed = projector_to_ggml
    _check_mmproj(request, source, target)
    check_like(request, target)
    _check_pruning(request, target)
    return planned(listed(request, target, destination), unchanged(source))


def _check_mmproj(request: Request, source: Checkpoint[Tensor], target: Format) -> None:
    """`PlanError` where there is nothing that a projector could stand beside."""
    if request.mmproj is not None and (source.naming, target.naming) != (Naming.GGML, Naming.HF):
        raise PlanError(
            "--with-mmproj makes a Hugging Face folder of a GGUF and a projector",
            hint="requant convert MODEL.gguf FOLDER --with-mmproj MMPROJ.gguf",
        )


def _check_pruning(request: Request, target: Format) -> None:
    """`PlanError` where layers cannot be left out, or their number is said otherwise."""
    if request.prune and (request.projector or target.naming is not Naming.GGML):
        raise PlanError(
            "--prune-layers leaves layers out of a GGUF of a text model",
            hint="requant merge MODEL --drop-layers 4,5 -o FOLDER makes a folder without them",
        )
    for key, _ in request.key_values:
        if request.prune and key.endswith(".block_count"):
            raise PlanError(f"{key} follows from the layers that are left out", hint=f"leave {key} out")


def check_like(request: Request, target: Format) -> None:
    """Raises `PlanError` where types of a GGUF's tensors are to be copied to no GGUF."""
    if request.like is not None and target.naming is not Naming.GGML:
        raise PlanError(
            "--like copies the types of a GGUF's tensors; the destination is none",
            hint="leave it out, or let the destination's name end in .gguf",
        )


def check_vocabulary(request: Request, naming: Naming, target: Format) -> None:
    """Raises `PlanError` where a tokenizer is to be left out that would not be made anyway."""
    if not request.vocabulary and (naming, target.naming) != (Naming.HF, Naming.GGML):
        raise PlanError(
            "--no-vocab leaves the tokenizer out of a GGUF that is made of a Hugging Face folder", hint="leave it out"
        )


def hf_to_ggml(request: Request, target: Format, destination: Path) -> list[Pass]:
    """A Hugging Face folder becomes a GGUF."""
    recipe = "COPY" if request.recipe is None else request.recipe
    known = _pruned(request)
    return [
        Claim(Naming.GGML),
        Unwrap(Naming.GGML),
        Family(Naming.GGML),
        Hyperparameters(Naming.GGML),
        Names(Naming.GGML),
        Besides(Naming.GGML),
        Leftovers(Naming.GGML),
        General(Naming.GGML),
        TokenizerToGgml(request.vocabulary),
        *([PrunedNames(request.prune)] if request.prune else []),
        _mix(recipe, known),
        ConvertedMetadata(recipe, request.key_values, request.importance, request.like),
        *([PrunedMetadata(request.prune)] if request.prune else []),
        *([Agreement(request.key_values)] if request.key_values else []),
        ScalesBeside(),
        *rounding(known, [Steps()], Naming.GGML),
        Place(target, destination, request.cut),
        Losses(Naming.GGML),
    ]


def _pruned(request: Request) -> Request:
    """With all that is known of tensors by the names of the output; a GGUF's own names are followed by the passes."""
    if not request.prune:
        return request

    def rename(name: str) -> str | None:
        return pruned_name(name, request.prune)

    return replace(
        request,
        importance=request.importance and request.importance.renamed(rename),
        feedback=request.feedback and request.feedback.renamed(rename),
        smoothing=request.smoothing and request.smoothing.renamed(rename),
    )


def projector_to_ggml(request: Request, target: Format, destination: Path) -> list[Pass]:
    """What sees or hears in a Hugging Face folder becomes a GGUF of its own."""
    from requant.passes.projector import Encoders, ProjectorGeneral

    recipe = "COPY" if request.recipe is None else request.recipe
    return [
        Claim(Naming.GGML),
        Unwrap(Naming.GGML),
        Encoders(),
        ProjectorGeneral(),
        _mix(recipe, request),
        ConvertedMetadata(recipe, request.key_values, request.importance, request.like),
        *([Agreement(request.key_values)] if request.key_values else []),
        Steps(),
        Place(target, destination, request.cut),
        Losses(Naming.GGML),
    ]


def ggml_to_ggml(request: Request, target: Format, destination: Path) -> list[Pass]:
    """A GGUF becomes another one, by `convert`."""
    recipe = "COPY" if request.recipe is None else request.recipe
    return [
        Claim(Naming.GGML),
        OwnNames(),
        *([PrunedNames(request.prune)] if request.prune else []),
        _mix(recipe, request),
        ConvertedMetadata(recipe, request.key_values, request.importance, request.like),
        *([PrunedMetadata(request.prune)] if request.prune else []),
        *([Agreement(request.key_values)] if request.key_values else []),
        OutputScale(),
        *rounding(request, [Steps()], Naming.GGML),
        Place(target, destination, request.cut),
        Losses(Naming.GGML),
    ]


def ggml_to_hf(request: Request, target: Format, destination: Path) -> list[Pass]:
    """A GGUF becomes a Hugging Face folder."""
    scheme = _scheme(request)
    before, after = _with_projector(request, scheme)
    return [
        Claim(Naming.HF),
        FoldScales(),
        Family(Naming.HF),
        *before,
        Hyperparameters(Naming.HF),
        Names(Naming.HF),
        Besides(Naming.HF),
        Leftovers(Naming.HF),
        General(Naming.HF),
        TokenizerToHf(),
        *after,
        *_layers(request, scheme, fuse=False),
        *_types(request, scheme),
        Spellings(),
        Place(target, destination, request.cut),
        Losses(Naming.HF),
    ]


def _with_projector(request: Request, scheme: Scheme | None) -> tuple[list[Pass], list[Pass]]:
    """What the way back needs of a projector's GGUF, once the family is known and once all is said of the text."""
    if request.mmproj is None:
        return [], []
    from requant.passes.projector import Seeing, Together

    if scheme is not None:
        raise PlanError(
            f"--with-mmproj makes a folder of plain numbers, and {request.recipe} is a way of quantizing",
            hint="make the folder with --to BF16, and quantize that",
        )
    return [Seeing(request.mmproj)], [Together(request.mmproj)]


def hf_to_hf(request: Request, target: Format, destination: Path) -> list[Pass]:
    """A Hugging Face folder becomes another one."""
    scheme = _scheme(request)
    return [
        Claim(Naming.HF, copied=request.recipe is None),
        *([OwnNames()] if request.recipe is None else [Unwrap(Naming.HF), FamilyNames(scheme)]),
        *_layers(request, scheme, fuse=scheme is None or not scheme.splits_fused),
        *_types(request, scheme, kept=request.recipe is None),
        *([Spellings()] if request.recipe is not None else []),
        Place(target, destination, request.cut),
        Losses(Naming.HF),
    ]


def _mix(recipe: str, request: Request) -> Mix:
    """The types of a GGUF's tensors."""
    return Mix(
        recipe,
        request.overrides,
        request.importance,
        request.key_values,
        request.like,
        rehearsal=request.rehearsal,
    )


#: (naming of the source, of the target) -> the list of passes between them.
LISTS: Final = {
    (Naming.HF, Naming.GGML): hf_to_ggml,
    (Naming.GGML, Naming.GGML): ggml_to_ggml,
    (Naming.GGML, Naming.HF): ggml_to_hf,
    (Naming.HF, Naming.HF): hf_to_hf,
}


class Rounding(Protocol):
    """What a request says of how weights are rounded."""

    @property
    def importance(self) -> Importance | None:
        """By names of GGML."""

    @property
    def feedback(self) -> Feedback | None:
        """Error feedback, if it is asked for."""

    @property
    def smoothing(self) -> Smoothing | None:
        """AWQ's factors, if they are."""


def rounding(request: Rounding, steps: list[Pass], naming: Naming) -> list[Pass]:
    """`steps` with what error feedback and smoothing need before and after them."""
    listed = list(steps)
    if request.smoothing is not None:
        from requant.passes.smoothing import Smooth

        if request.importance is None:
            raise PlanError("smoothing needs an importance matrix", hint="--stats or --imatrix")
        listed = [Smooth(request.importance, request.smoothing, naming), *listed]
    if request.feedback is not None:
        from requant.passes.feedback import Correct, UncorrectedTold

        listed = [Correct(request.feedback, naming), *listed, UncorrectedTold()]
    return listed


def _layers(request: Request, scheme: Scheme | None, *, fuse: bool) -> list[Pass]:
    """Layers as the new type needs them; without one they stay as they are."""
    if request.recipe is None:
        return []
    from requant.passes.layers import Experts, Fuse, LibraryNames

    listed: list[Pass] = [DropScales(), Experts(scheme), *([Fuse()] if fuse else [])]
    return listed if scheme is None else [*listed, LibraryNames(scheme)]


def _types(request: Request, scheme: Scheme | None, *, kept: bool = False) -> list[Pass]:
    """What the tensors of a folder become, and config.json's word on it (`kept`: that of the source)."""
    from requant.passes.scheme import Config, Plain, Quantize

    if scheme is not None:
        steps = rounding(request, [Steps(), UnusedImportance()], Naming.HF)
        return [Quantize(scheme, request.importance, request.feedback), *steps, Config(scheme=scheme)]
    if request.feedback is not None or request.smoothing is not None:
        raise PlanError(
            "error feedback and smoothing are for what is quantized; plain numbers are rounded to the nearest",
            hint="leave it out, or quantize: --to GPTQ, W4A16, ...",
        )
    if request.overrides != Overrides():
        raise PlanError(
            "--tensor-type, --pure and the like choose the types of a GGUF's tensors; the destination is none",
            hint="leave them out, or let the destination's name end in .gguf",
        )
    if request.importance is not None:
        raise PlanError(
            "--imatrix says where quantizing may lose; plain numbers are rounded to the nearest",
            hint="leave it out, or quantize: --to GPTQ, AWQ, W4A16, EXL2-4.0, ...",
        )
    return [Plain(None if request.recipe is None else _dense(request.recipe)), Steps(), Config(kept)]


def _scheme(request: Request) -> Scheme | None:
    """The scheme that the user names, if it is one."""
    if request.recipe is None:
        return None
    from requant.schemes import scheme_named

    scheme = scheme_named(request.recipe)
    if scheme is None:
        return None
    scheme = scheme.overriding(request.overrides)
    return scheme.rehearsed() if request.rehearsal else scheme


def _dense(name: str) -> Dense:
    """The plain type that the user names; raises `PlanError` for what no folder can be."""
    from requant.schemes import SCHEMES

    offers = f"--to F16, BF16, F32, {', '.join(SCHEMES)}"
    try:
        recipe = recipe_named(name)
    except PlanError:
        known = ["F16", "BF16", "F32", *SCHEMES]
        raise PlanError(
            f"nothing a Hugging Face folder may hold is called {name!r}", hint=did_you_mean(name, known, offers)
        ) from None
    if not isinstance(recipe.main, Dense):
        raise PlanError(
            f"a Hugging Face folder cannot be {recipe.name}",
            hint=f"{offers}; or let the destination's name end in .gguf",
        )
    return recipe.main
