"""Model cards of conversions: a README.md for each folder that plans write to, as a file of the plan itself.

So it appears with the model or not at all, and is listed, counted and refused where it exists, as all files are.
Metadata: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import requant
from requant.architectures.card import FIELDS, LARGEST, card_text, parsed, read_card
from requant.cards import EXPLAINED, NAME, block, code, file_told, files_table, front_matter, plain, split_card, table
from requant.cards import weight_files as files_of
from requant.encodings import Dense
from requant.errors import PlanError
from requant.importance import Importance
from requant.inspection.origin import origin_of
from requant.ir import Checkpoint, Naming, Tensor
from requant.json_values import TOKENIZER, parse_json
from requant.layout import OutputFile
from requant.losses import Loss, LossKind, grouped
from requant.plan import Plan
from requant.sources import FileSlice, Memory

#: Rows for what is lost before the rest is only counted.
_SHOWN: Final = 30
#: What the Hub takes for the name of a model; those of old have no owner.
_REPOSITORY: Final = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_CACHED: Final = re.compile("models--(.+)--(.+)")
_HUB: Final = "https://huggingface.co/"
#: What of a source's card is true of what is made of it, too.
_KEPT: Final = ("license", "license_name", "license_link", "language", "pipeline_tag", "datasets")
#: Tasks of the Hub that models converted here can have: `gguf` keeps a card's among its tags.
_TASKS: Final = frozenset(
    {
        *("text-generation", "text2text-generation", "feature-extraction", "sentence-similarity", "fill-mask"),
        *("text-classification", "text-ranking", "token-classification", "question-answering", "translation"),
        *("summarization", "image-text-to-text", "image-to-text", "audio-text-to-text", "any-to-any"),
        *("visual-question-answering", "automatic-speech-recognition", "text-to-speech", "zero-shot-classification"),
    }
)


@dataclass(frozen=True, slots=True)
class Making:
    """What a card tells of how a model was made, beside what the plan knows.

    named: the source as the user names it, `owner/name` if it is one of the Hub. command: as typed, without folders.
    settings: front matter that the user gives; None leaves a key out. adapter: whether it is one, not a model.
    """

    source: Checkpoint[Tensor]
    named: str
    command: str
    importance: Importance | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    adapter: bool = False

    @property
    def hub(self) -> str:
        """What the source is called on the Hub, as the user or its place tells; empty where neither does."""
        given = self.settings.get("base_model")
        return (
            given if isinstance(given, str) and _REPOSITORY.fullmatch(given) else hub_name(self.named, self.source.path)
        )

    @property
    def bases(self) -> tuple[str, ...]:
        """That, or what the source's card or metadata say that it was made of."""
        return (self.hub,) if self.hub else base_models(self.source)


def with_cards(recipes: Sequence[str], plans: Sequence[Plan], making: Making) -> list[Plan]:
    """The plans, the first of those that write to a folder with its card among its files.

    recipes: what the plans are made by; empty where the user names none. A README.md that the output has anyway goes
    on below the card, its front matter in the card's own.
    """
    folders: dict[Path, list[tuple[str, Plan]]] = {}
    for recipe, plan in zip(recipes, plans, strict=True):
        folders.setdefault(plan.layout.root.absolute(), []).append((recipe, plan))
    files = [file_told(path) for path in files_of(making.source.tensors)]
    made = []
    for plan in plans:
        several = folders.pop(plan.layout.root.absolute(), None)
        made.append(plan if several is None else _with_card(_Card(several, making), files))
    return made


def hub_name(named: str, path: Path) -> str:
    """`owner/name` of a model that was named so, or lies in the Hub's cache; empty where neither is known."""
    from requant.hub import HubModel

    model = None if Path(named).exists() else HubModel.named(named)
    if model is not None:
        return model.repo
    parents = (path.absolute(), *path.absolute().parents)
    cached = (_CACHED.fullmatch(folder.parent.parent.name) for folder in parents if folder.parent.name == "snapshots")
    return next((f"{match[1]}/{match[2]}" for match in cached if match), "")


def base_models(source: Checkpoint[Tensor]) -> tuple[str, ...]:
    """What a model's card or metadata say that it was made of, as far as it can be found on the Hub."""
    return tuple(base for base in origin_of(source).bases if _REPOSITORY.fullmatch(base))


def _with_card(card: _Card, files: Sequence[Mapping[str, Any]]) -> Plan:
    """The first plan of a folder, with the card."""
    plan = card.plans[0]
    _refuse_sources(plan, card.making.source)
    old = next((file for file in plan.layout.files if file.name == NAME), None)
    front, below, losses = _original(old)
    if "model-index" in front and not card.is_dense:
        del front["model-index"]
        losses.append(Loss(LossKind.METADATA_DROPPED, NAME, "model-index: results of the model before it was rounded"))
    text = front_matter(card.front(front)) + "\n" + "\n".join(card.body(files)) + "\n" + below
    data = text.encode("utf-8", "replace")
    made = OutputFile(NAME, data, len(data))
    others = tuple(file for file in plan.layout.files if file is not old)
    return replace(plan, layout=replace(plan.layout, files=(*others, made)), losses=(*plan.losses, *losses))


def _refuse_sources(plan: Plan, source: Checkpoint[Tensor]) -> None:
    """Raises `PlanError` if the card would replace that of the source, whose folder the output is not."""
    path, theirs = plan.layout.root / NAME, source.files.get(NAME)
    same = isinstance(theirs, FileSlice) and path.exists() and path.samefile(theirs.path)
    if same and NAME not in (file.name for file in plan.layout.files):
        raise PlanError(f"{path} is the card of the source", hint="with --card, write to another folder")


def _original(file: OutputFile | None) -> tuple[dict[str, Any], str, list[Loss]]:
    """The front matter of a README.md, and what goes on below the card: nothing of one that has but a title."""
    if file is None:
        return {}, "", []
    if file.nbytes > LARGEST:
        return {}, "", [Loss(LossKind.METADATA_DROPPED, NAME, f"more than {LARGEST >> 20} MB: the card replaces it")]
    text = card_text(Memory(file.head) if file.body is None else file.body)
    front, losses = parsed(text)
    _, below = split_card(text)
    is_title = "\n" not in below.strip() and below.strip().startswith("# ")
    told = "" if is_title or not below.strip() else f"\n## The original model card\n\n{below.lstrip()}"
    return front, told, losses


@dataclass(frozen=True, slots=True)
class _Card:
    """What is said of the models in one folder."""

    several: Sequence[tuple[str, Plan]]
    making: Making

    @property
    def plans(self) -> list[Plan]:
        return [plan for _, plan in self.several]

    @property
    def is_dense(self) -> bool:
        """Whether all numbers are plain."""
        return all(isinstance(step.target.encoding, Dense) for plan in self.plans for step in plan.steps)

    @property
    def _files(self) -> list[OutputFile]:
        return [file for plan in self.plans for file in _models(plan)]

    @property
    def _is_gguf(self) -> bool:
        return any(file.name.endswith(".gguf") for file in self._files)

    @property
    def _method(self) -> str:
        """How config.json says that a folder is quantized, as the Hub tags it; empty where it is not."""
        for file in self.plans[0].layout.files:
            if file.name == "config.json":
                config = parse_json(file.head, self.plans[0].layout.root / file.name, TOKENIZER).value
                assert isinstance(config, dict)
                if isinstance(config.get("quantization"), dict):
                    return "mlx"
                said = config.get("quantization_config")
                return str(said.get("quant_method", "")) if isinstance(said, dict) else ""
        return ""

    def front(self, original: Mapping[str, Any]) -> dict[str, Any]:
        """Front matter: that of the original, and what is said anew."""
        making = self.making
        said = _said(making.source)
        found: dict[str, Any] = {}
        if making.bases:
            found["base_model"] = making.bases[0] if len(making.bases) == 1 else list(making.bases)
            if making.adapter or not self.is_dense:
                found["base_model_relation"] = "adapter" if making.adapter else "quantized"
        about_bases = {"base_model", "base_model_relation"} if making.hub else set()  # the original's were others
        found = {key: value for key, value in original.items() if key not in about_bases} | found
        found |= {key: said[key] for key in _KEPT if said.get(key)}
        library = "gguf" if self._is_gguf else "mlx" if self._method == "mlx" else "transformers"
        found["library_name"] = library if library != "transformers" else original.get("library_name", library)
        tags = [*_texts(said.get("tags")), "gguf" if self._is_gguf else "", self._method, making.source.architecture]
        left = {found.get("pipeline_tag"), ""}
        found["tags"] = list(dict.fromkeys(tag for tag in (*tags, "requant") if tag not in left))
        found |= making.settings
        return {key: value for key, value in found.items() if value is not None}

    def body(self, files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Lines of Markdown."""
        yield from (f"# {plain(self._title())}", "", self._what(), "", "## Files", "")
        rows = chain.from_iterable(_rows(recipe, plan) for recipe, plan in self.several)
        yield from table(["file", "type", "bits per weight", "bytes", "tensors"], rows)
        for recipe, plan in self.several:
            yield from _lost(recipe if len(self.several) > 1 else "", plan.losses)
        yield from ("", "## How it was made", "", f"With requant {requant.__version__}:", "")
        yield from block(self.making.command, "sh")
        yield from _measured(self.making.importance)
        if files:
            yield from ("", f"Of {'these files' if len(files) > 1 else 'this file'}:", "")
            yield from (*files_table(files), "", EXPLAINED)

    def _title(self) -> str:
        if len(self._files) == 1 and (self._is_gguf or len(self.plans[0].layout.files) == 1):
            return Path(self._files[0].name).stem
        if not self._is_gguf:
            return self.plans[0].layout.root.absolute().name
        return f"{_label(self.making).rsplit('/', 1)[-1]}-GGUF"

    def _what(self) -> str:
        """A sentence."""
        hub = self.making.hub
        source = f"[{plain(hub)}]({_HUB}{hub})" if hub else plain(_label(self.making))
        form = "GGUF" if self._is_gguf else "safetensors"
        did = "converted" if self.is_dense else "quantized"
        of = "" if hub else _of(self.making.bases)
        return f"{source}{of}, {did} to {form} with requant."


def _of(bases: Sequence[str]) -> str:
    links = ", ".join(f"[{plain(base)}]({_HUB}{base})" for base in bases)
    return f" (made of {links}, as it says)" if links else ""


def _label(making: Making) -> str:
    """What the source is called."""
    path = making.source.path.absolute()
    return making.hub or origin_of(making.source).name or path.name.removesuffix(".gguf").removesuffix(".safetensors")


def _said(source: Checkpoint[Tensor]) -> dict[str, Any]:
    """What a source says of itself, in the words of a card: texts, and lists of texts."""
    if source.naming is Naming.GGML:
        found: dict[str, Any] = {name: source.metadata[key].value for name, key in FIELDS if key in source.metadata}
        tags = list(_texts(found.get("tags")))
        tasks = [tag for tag in tags if tag in _TASKS]
        found |= {"tags": [tag for tag in tags if tag not in tasks[-1:]], "pipeline_tag": next(reversed(tasks), None)}
        found["datasets"] = [name for name in origin_of(source).datasets if _REPOSITORY.fullmatch(name)]
    else:
        found, _ = read_card(source)
    texts = {key: list(_texts(value)) for key, value in found.items() if isinstance(key, str)}
    listed = ("tags", "language", "datasets")
    return {key: value if key in listed else ", ".join(value) for key, value in texts.items() if value}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        yield from (item for item in value if isinstance(item, str))


def _models(plan: Plan) -> Iterator[OutputFile]:
    """The files that have weights, or the head of them."""
    return (file for file in plan.layout.files if file.slots or file.name.endswith(".gguf"))


def _rows(recipe: str, plan: Plan) -> Iterator[list[str]]:
    """A row for each file of weights; what happened to numbers is that of all of them."""
    weights: Counter[str] = Counter()
    for step in plan.steps:
        weights[step.target.encoding.label] += step.target.nbytes
    kind = recipe or next((label for label, _ in weights.most_common(1)), "")
    for file in _models(plan):
        yield [code(file.name), plain(kind), f"{plan.bits_per_weight:.3f}", f"{file.nbytes:,}", plan.fidelities_text()]


def _lost(recipe: str, losses: Sequence[Loss]) -> Iterator[str]:
    """A table of what is not as it was."""
    groups = grouped(losses)
    if not groups:
        return
    yield from ("", f"## What was lost or changed{f': {plain(recipe)}' if recipe else ''}", "")
    rows = ([group.kind.value, code(group.pattern), str(group.count), plain(group.detail)] for group in groups[:_SHOWN])
    yield from table(["what", "of", "count", "why"], rows)
    if len(groups) > _SHOWN:
        yield from ("", f"And {len(groups) - _SHOWN} kinds more.")


def _measured(importance: Importance | None) -> Iterator[str]:
    """The importance matrix, and what it was measured on."""
    if importance is None:
        return
    path = Path(importance.source)
    texts = ", ".join(code(Path(text).name) for text in importance.datasets)
    amount = f", {importance.chunks:,} chunks" if importance.chunks else ""
    amount += f" of {importance.chunk_tokens:,} tokens" if amount and importance.chunk_tokens else ""
    on = f", measured on {texts}{amount}" if texts else ""
    yield from ("", f"Importance matrix: {code(path.name)}{on}.", "", *files_table([file_told(path)]))
