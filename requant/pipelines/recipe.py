"""A pipeline as YAML: which model, which stages, which output, and the values that the command line may set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from requant.merging.entry import Entry
from requant.merging.recipe import documents_of
from requant.pipelines.stages import STAGES, Stage

#: `$name` or `${name}` in a text; `$$` is a dollar.
_NAMED: Final = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recipe:
    """model: the one that the first stage is given; None where that is a merge that names its own.

    stages: in order. output: where it is written. settings: the value of each of the recipe's inputs. text: the recipe
    as it was read.
    """

    model: str | None
    stages: tuple[Stage, ...]
    output: str
    settings: Mapping[str, object]
    text: str
    file: str


def recipe_from(text: str, file: str, given: Mapping[str, str]) -> Recipe:
    """The recipe that a file holds, with the values that are given; raises `PlanError` for what is none.

    >>> recipe_from("{model: a, stages: [quantize: {to: $to}], output: b.gguf, inputs: {to: Q8_0}}", "r", {}).settings
    {'to': 'Q8_0'}
    """
    documents = [one for one in documents_of(text, file) if one is not None]
    whole = Entry(file, "", documents[0] if len(documents) == 1 else documents)
    members = whole.members(("inputs", "model", "stages", "output"))
    for needed in ("stages", "output"):
        if needed not in members:
            raise whole.wrong(f"has no {needed}", "requant run --help shows a recipe")
    settings = _settings(members.get("inputs"), whole, given)
    filled = {key: Entry(file, key, _filled(entry.value, settings, entry)) for key, entry in members.items()}
    stages = tuple(map(_stage, filled["stages"].items()))
    model = filled["model"].text() if "model" in filled else None
    if model is None and stages[0].name != "merge":
        raise whole.wrong("names no model", "model: ./folder; only a merge brings its own")
    names = [stage.name for stage in stages]
    for name in ("quantize", "check"):
        if names.count(name) > 1:
            raise members["stages"].wrong(f"{name} stands there {names.count(name)} times", "write a recipe for each")
    if "quantize" in names and set(names[names.index("quantize") + 1 :]) - {"check"}:
        raise members["stages"].wrong(f"after quantize comes {names[names.index('quantize') + 1]}: only check may")
    if "check" in names and names[-1] != "check":
        raise members["stages"].wrong("check looks at the output: it comes last")
    return Recipe(model, stages, filled["output"].text(), settings, text, file)


def _settings(entry: Entry | None, whole: Entry, given: Mapping[str, str]) -> dict[str, object]:
    """The recipe's own values, those that are given in their place."""
    own = {} if entry is None else {name: one.value for name, one in entry.named()}
    for name in given:
        if name not in own:
            raise whole.unknown(name, tuple(own), "no input is called") if own else whole.wrong(f"has no input {name}")
    found = {name: _typed(given[name], value) if name in given else value for name, value in own.items()}
    if missing := [name for name, value in found.items() if value is None]:
        raise whole.wrong(f"{', '.join(missing)} must be given", f"requant run {whole.file} {missing[0]}=...")
    return found


def _typed(text: str, like: object) -> object:
    """A value from the command line: a text where the recipe has a text or nothing, else what YAML makes of it."""
    if like is None or isinstance(like, str):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _filled(value: Any, settings: Mapping[str, object], entry: Entry) -> Any:
    """With inputs in the place of their names; a text that is only a name becomes the value itself."""
    if isinstance(value, dict):
        return {key: _filled(one, settings, entry) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, settings, entry) for one in value]
    if not isinstance(value, str):
        return value

    def setting(match: re.Match[str]) -> object:
        name = match[1] or match[2]
        if name is None:
            return "$"
        if name not in settings:
            raise entry.unknown(name, tuple(settings), "no input is called")
        return settings[name]

    if whole := _NAMED.fullmatch(value):
        return setting(whole)
    return _NAMED.sub(lambda match: str(setting(match)), value)


def _stage(entry: Entry) -> Stage:
    """One of `STAGES`, written as `NAME: {options}`, or as the name alone."""
    if isinstance(entry.value, str):
        entry = Entry(entry.file, entry.where, {entry.value: {}})
    named = list(entry.named())
    if len(named) != 1:
        raise entry.expected("one stage, such as quantize: {to: Q4_K_M}")
    name, options = named[0]
    if name not in STAGES:
        raise entry.unknown(name, tuple(STAGES), "no stage is called")
    if options.value is None:
        options = Entry(options.file, options.where, {})
    return STAGES[name](options)
