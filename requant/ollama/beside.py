"""A Modelfile among the files of a plan: it appears with the GGUF, or neither does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from requant.errors import PlanError
from requant.layout import OutputFile
from requant.losses import Loss, LossKind
from requant.ollama.modelfile import from_line, modelfile
from requant.ollama.rendering import need_jinja2
from requant.plan import Plan

_NAME: Final = "Modelfile"
#: Bytes of a Modelfile that is there already in which its FROM is looked for.
_GLANCE: Final = 1 << 16


def with_modelfile(plan: Plan, *, several: bool = False) -> Plan:
    """The plan of a GGUF with its Modelfile; raises `PlanError` where there can be none.

    It is called Modelfile, as Ollama expects. It is NAME.Modelfile for NAME.gguf where that name is another file's, or
    where there are `several` GGUFs. What it cannot say is a loss of the plan.
    """
    need_jinja2()
    last = plan.passes[-1].after if plan.passes else None
    if last is None or not all(file.name.lower().endswith(".gguf") for file in plan.layout.files):
        raise PlanError("--ollama is for a model that becomes a GGUF", hint="let the destination's name end in .gguf")
    if len(plan.layout.files) > 1:
        raise PlanError("--ollama: Ollama takes no model in several files", hint="write one file")
    if "general.type" in last.metadata and last.metadata["general.type"].value != "model":
        raise PlanError("--ollama: a Modelfile is of a text model", hint="leave out --mmproj")
    (gguf,) = plan.layout.files
    made = modelfile(last.metadata, gguf.name)
    place = plan.layout.root / _NAME
    name = _NAME if not several and _is_free(place, from_line(gguf.name)) else f"{Path(gguf.name).stem}.{_NAME}"
    text = made.text.encode()
    layout = replace(plan.layout, files=(gguf, OutputFile(name, text, len(text))))
    losses = (Loss(LossKind.UNLOADED, f"{name}: {subject}", why) for subject, why in made.untold)
    return replace(plan, layout=layout, losses=(*plan.losses, *losses))


def _is_free(place: Path, line: str) -> bool:
    """Whether nothing is there, or what is there is of the same GGUF."""
    if not place.is_file():
        return not place.exists() and not place.is_symlink()
    with place.open("rb") as file:
        return line.rstrip().encode() in file.read(_GLANCE).splitlines()
