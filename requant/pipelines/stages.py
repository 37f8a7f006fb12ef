"""What a stage of a pipeline can be. A new one is a class here and its line in `STAGES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from requant.errors import PlanError
from requant.formats import FORMATS
from requant.merging.entry import Entry
from requant.merging.layers import MAPPINGS, layers_left
from requant.merging.recipe import recipes_from
from requant.operations import calibrate
from requant.operations.convert import Request
from requant.operations.merge import Options as MergeOptions
from requant.operations.merge import plan_merge
from requant.operations.prune import Options as PruneOptions
from requant.operations.prune import plan_prune
from requant.pipelines.flow import PREVIOUS, Flow, Opened, dense, resolved
from requant.pipelines.quantizing import Quantize
from requant.pruning.masks import METHODS, SCOPES, Masks
from requant.pruning.sparsity import Sparsity, sparsity_from
from requant.pruning.structure import Wanted, depth_of
from requant.students import LIKE, Student, plan_student

if TYPE_CHECKING:
    from requant.statistics import Statistics

_FOLDER: Final = FORMATS["safetensors"]


class Tools(Protocol):
    """What stages are given besides the model."""

    @property
    def opened(self) -> Opened:
        """Opens a model or an adapter that a recipe names."""
        ...

    def measured(self, stage: Calibrate, flow: Flow) -> Statistics:
        """What a calibration finds of a model; of one that was made before, what is kept of it. Of one that is yet to
        be made, without a token, what plans as it will."""
        ...


class Stage(Protocol):
    """One stage: a frozen value, `options` being what the recipe says."""

    name: ClassVar[str]

    @property
    def options(self) -> Mapping[str, Any]:
        """As the recipe has them."""
        ...

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """What it makes of the model; raises `Error` for what cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge, by a recipe as `requant merge` takes it; `previous` is the model so far. seed: of random methods."""

    name: ClassVar[str] = "merge"
    options: Mapping[str, Any]
    text: str
    file: str
    seed: int
    mixed: bool

    @classmethod
    def of(cls, entry: Entry) -> Merge:
        """`merge: previous+./adapter`, or a mapping with the keys of a merge's recipe, `seed` and `allow_crimes`."""
        import yaml

        if isinstance(entry.value, str):
            entry = entry.at("", {"merge_method": "passthrough", "models": [{"model": entry.value}]})
        members = dict(entry.named())
        seed = members.pop("seed").integer() if "seed" in members else 0
        mixed = members.pop("allow_crimes").flag() if "allow_crimes" in members else False
        own = {name: one.value for name, one in members.items()}
        text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
        recipes_from(text, f"{entry.file}: {entry.where}")  # what is wrong with it is told now
        return cls(entry.value, text, f"{entry.file}: {entry.where}", seed, mixed)

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """Nothing is written: other models are read when the last stage is carried out."""
        recipes = recipes_from(self.text, self.file)
        plan = plan_merge(
            recipes,
            lambda reference: resolved(reference, tools.opened, flow),
            _FOLDER,
            Path(PREVIOUS),
            MergeOptions(self.seed, self.mixed),
        )
        models = ", ".join(dict.fromkeys(str(one) for recipe in recipes for one in recipe.references()))
        return flow.then(plan, f"merge: {recipes[-1].method.name} of {models}")


_LAYERS: Final = ("layers", "keep_layers", "drop_layers")
_UNITS: Final = ("hidden", "heads", "kv_heads", "ffn", "experts", "expert_ffn")


@dataclass(frozen=True, slots=True)
class Prune:
    """Weights that become zero, or units that are cut out; options as of `requant prune`.

    What the calibration before it has measured chooses, where `method`, `importance: activation` or `layers` ask it.
    """

    name: ClassVar[str] = "prune"
    options: Mapping[str, Any]
    masks: Masks | None
    units: Wanted
    by_size: bool
    layers: tuple[str, str] | None  # the option, and its list
    depth: int | None

    @classmethod
    def of(cls, entry: Entry) -> Prune:
        """From `{sparsity: "2:4", method: wanda, ...}`."""
        said = entry.members(("sparsity", "method", "scope", "skip", "each", "importance", *_LAYERS, *_UNITS))
        units = _units(said)
        named = [name for name in _LAYERS if name in said]
        if len(named) > 1:
            raise entry.wrong(f"{named[0]} and {named[1]} contradict each other")
        layers = next(((name, str(said[name].value)) for name in named if name != "layers"), None)
        masks = _masks(said, entry)
        if masks is None and not named and not units.cuts_units:
            raise entry.wrong("prunes nothing", "sparsity: 50%, sparsity: 2:4, drop_layers, kv_heads, ffn, ...")
        kind = _one_of(said.get("importance"), ("magnitude", "activation"), "magnitude")
        depth = said["layers"].integer() if "layers" in said else None
        return cls(entry.value, masks, units, kind == "magnitude", layers, depth)

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """Raises `PlanError` where nothing was measured that chooses."""
        model, found, method = flow.known, flow.statistics, None if self.masks is None else self.masks.method
        if found is None and (not self.by_size or method not in (None, "magnitude") or self.depth is not None):
            raise PlanError("prune needs what a calibration has measured", hint="put a stage `calibrate` before it")
        if method == "sparsegpt" and found is not None and not found.hessians:
            raise PlanError("prune: sparsegpt needs Hessians", hint="put `calibrate: {hessians: true}` before it")
        units = self.units
        if self.layers is not None:
            option, text = self.layers
            left = layers_left(text, depth_of(model), option, keeps=option == "keep_layers")
            units = replace(units, layers=left)
        options = PruneOptions(units, self.by_size, self.depth, self.masks)
        if found is not None:
            influences = found.influences if found.provenance.tokens else None
            options = replace(options, statistics=found.importance, hessians=found.hessians, influences=influences)
        plan = plan_prune(model, _FOLDER, Path(PREVIOUS), options)
        pruned = flow.then(plan, *(f"prune: {hint}" for hint in plan.hints))
        whole = units == Wanted() and self.depth is None
        return replace(pruned, statistics=found if whole else None)  # of matrices that are still there


def _units(said: Mapping[str, Entry]) -> Wanted:
    return Wanted(None, *(said[name].integer() if name in said else None for name in _UNITS))


def _masks(said: Mapping[str, Entry], entry: Entry) -> Masks | None:
    names = {"method", "scope", "skip", "each"} & said.keys()
    if "sparsity" not in said and "each" not in said:
        if names:
            raise entry.wrong(f"{min(names)} goes with a sparsity")
        return None
    each = said["each"].named() if "each" in said else ()
    return Masks(
        sparsity_from(str(said["sparsity"].value), f"{entry.file}: {entry.where}")
        if "sparsity" in said
        else Sparsity(0),
        _one_of(said.get("method"), METHODS, "magnitude"),
        _one_of(said["scope"], SCOPES, "") if "scope" in said else None,
        tuple((_regex(one, name), sparsity_from(str(one.value), one.where)) for name, one in each),
        tuple(_regex(one, one.text()) for one in said["skip"].items()) if "skip" in said else (),
    )


@dataclass(frozen=True, slots=True)
class Beginning:
    """Some layers of the model, perhaps narrower ones, to begin a student with; options as of `requant student`."""

    name: ClassVar[str] = "student"
    options: Mapping[str, Any]
    student: Student | None
    like: str | None

    @classmethod
    def of(cls, entry: Entry) -> Beginning:
        """From `{layers: 6, mapping: uniform, ffn: 1024}`, or `{like: tinybert}`."""
        said = entry.members(("layers", "mapping", "like", *_UNITS))
        if "like" in said:
            if len(said) > 1:
                raise entry.wrong("like says all of it")
            return cls(entry.value, None, _one_of(said["like"], tuple(LIKE), ""))
        units = _units(said)
        layers = said["layers"].integer() if "layers" in said else None
        return cls(entry.value, Student(layers, _one_of(said.get("mapping"), tuple(MAPPINGS), "uniform"), units), None)

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """As `requant student` plans it."""
        teacher = flow.known
        student = LIKE[self.like](teacher) if self.like else self.student
        assert student is not None
        plan = plan_student(teacher, student, _FOLDER, Path(PREVIOUS), Request())
        return flow.then(plan, *(f"student: {hint}" for hint in plan.hints))


@dataclass(frozen=True, slots=True)
class Calibrate:
    """The model is run over text; what its matrices are given is measured. Options as of `requant calibrate`.

    gradient_tokens: of how many tokens gradients are taken; 0 takes none.

    It is the one thing that is kept in a file: the stages after it, and later runs of the same recipe, find it there.
    """

    name: ClassVar[str] = "calibrate"
    options: Mapping[str, Any]
    texts: tuple[str, ...]
    tokens: int | None
    window: int
    seed: int
    hessians: bool
    gradient_tokens: int

    @classmethod
    def of(cls, entry: Entry) -> Calibrate:
        """From `{text: [wiki.txt], tokens: 65536, ctx: 512, gradients: true}`, all of which may be left out."""
        said = entry.members(("text", "tokens", "ctx", "seed", "hessians", "gradients", "gradient_tokens"))
        texts: tuple[str, ...] = ()
        if "text" in said:
            alone = isinstance(said["text"].value, str)
            texts = (said["text"].text(),) if alone else tuple(one.text() for one in said["text"].items())
        tokens = said["tokens"].integer() if "tokens" in said else None
        window = said["ctx"].integer() if "ctx" in said else 512
        if window < 32:
            raise said["ctx"].expected("at least 32 tokens")
        seed = said["seed"].integer() if "seed" in said else 0
        hessians = "hessians" in said and said["hessians"].flag()
        gradients = "gradients" in said and said["gradients"].flag()
        if "gradient_tokens" in said and not gradients:
            raise entry.wrong("gradient_tokens goes with gradients: true")
        graded = said["gradient_tokens"].integer() if "gradient_tokens" in said else calibrate.GRADIENT_TOKENS
        return cls(entry.value, texts, tokens or None, window, seed, hessians, graded if gradients else 0)

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """The same model, and what was measured of it."""
        return replace(flow, statistics=tools.measured(self, flow))

    def found(self, flow: Flow, texts: Callable[[str], str], progress: calibrate.Progress, folder: Path) -> Statistics:
        """Measure now. folder: where Hessians lie until they are written."""
        named = tuple((Path(path).name, texts(path)) for path in self.texts)
        kept, graded = folder if self.hessians else None, self.gradient_tokens
        request = calibrate.Request(named, self.tokens, self.window, graded > 0, self.seed, kept, graded)
        return calibrate.calibrate(dense(flow), request, progress)


#: Option of `check` -> what makes sure that it is of its kind.
_CHECKED: Final[Mapping[str, Callable[[Entry], object]]] = {
    **dict.fromkeys(("against", "prompt", "expect", "text"), Entry.text),
    **dict.fromkeys(("predict", "ctx", "chunks"), Entry.integer),
    **dict.fromkeys(("max_kl", "min_top1", "max_ppl_ratio", "min_cosine"), Entry.number),
    "raw": Entry.flag,
}


@dataclass(frozen=True, slots=True)
class Check:
    """The output is loaded in llama.cpp and measured; options as of `requant check`, which carries it out."""

    name: ClassVar[str] = "check"
    options: Mapping[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> Check:
        """From `{against: ./model, max_kl: 0.1, chunks: 4}`, all of which may be left out."""
        said = entry.members(tuple(_CHECKED))
        for name, one in said.items():
            _CHECKED[name](one)
        limits = {"max_kl", "min_top1", "max_ppl_ratio", "min_cosine"} & said.keys()
        if limits and "against" not in said:
            raise entry.wrong(f"{min(limits)} goes with against")
        return cls({name: one.value for name, one in said.items()})

    def apply(self, flow: Flow, tools: Tools) -> Flow:
        """Nothing, as long as there is no output."""
        return flow


#: Name of a stage -> how its options become one.
STAGES: Final[Mapping[str, Callable[[Entry], Stage]]] = {
    "merge": Merge.of,
    "student": Beginning.of,
    "prune": Prune.of,
    "calibrate": Calibrate.of,
    "quantize": Quantize.of,
    "check": Check.of,
}


def _one_of(entry: Entry | None, known: tuple[str, ...], default: str) -> str:
    if entry is None:
        return default
    if entry.value not in known:
        raise entry.unknown(str(entry.value), known)
    return str(entry.value)


def _regex(entry: Entry, text: str) -> str:
    import re

    try:
        re.compile(text)
    except re.error as error:
        raise entry.wrong(f"{text!r} is no regular expression: {error}") from None
    return text
