"""`requant inspect`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.adapters.recognized import is_any_adapter
from requant.cli.documents import say_document
from requant.cli.options import html_option, located
from requant.cli.tables import count, size, table
from requant.cli.terminal import remark, say
from requant.errors import Error
from requant.formats import opened
from requant.ir import PROJECTOR, Checkpoint, Json, Tensor, Typed
from requant.operations.inspect import Report, Share, report, share_of, short_label
from requant.patterns import of_the_user
from requant.printable import printable

_EXAMPLES: Final = """\b
Examples:
  requant inspect model.gguf
  requant inspect ./SmolLM2-135M --tensors 'layers.0.*proj' --metadata
  requant inspect ./adapter
  requant inspect mmproj.gguf
  requant inspect model.gguf --json | jq .bits_per_weight
  requant inspect model.gguf --html model.html
"""

if TYPE_CHECKING:
    from requant.adapters.told import About
    from requant.projectors.told import About as Projector

#: Metadata arrays are shown up to this many items.
_SHOWN_ITEMS: Final = 6


@click.command(epilog=_EXAMPLES)
@click.argument("model", metavar="PATH")
@click.option(
    "--tensors", "pattern", metavar="REGEX", help="List the tensors whose name contains a match ('.' for all)."
)
@click.option("--metadata", is_flag=True, help="Show the metadata (GGUF keys, config.json, __metadata__).")
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(model: str, pattern: str | None, metadata: bool, html: Path | None, as_json: bool) -> None:
    """Show what PATH (a model file or folder, or one of the Hugging Face Hub) consists of.

    Architecture, parameters, size, true bits per weight, how the bits are spread over tensor roles and layers, and
    the memory needed to run it. Only headers are read.
    """
    try:
        wanted = of_the_user(pattern) if pattern is not None else None
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}", param_hint="--tensors") from error
    if html is not None:
        from requant.cli.pages.writing import check_page

        check_page(html)
    path = located(model)
    found, checkpoint = opened(path, as_stored=True)
    result = report(checkpoint, found.name)
    adapter, refused = _adapter(checkpoint)
    projector = _projector(checkpoint)
    shown = [t for t in result.checkpoint.tensors if wanted is None or wanted.search(t.name)]
    about: dict[str, Json] = {}
    if adapter is not None or refused:
        about["adapter"] = {"not_understood": refused} if adapter is None else adapter.to_json()
    if projector is not None:
        about["projector"] = projector.to_json()
    if as_json:
        document = result.to_json(shown) | about
        if metadata:
            document["config"] = dict(checkpoint.config)
            document["metadata"] = {key: _plain(field.value) for key, field in checkpoint.metadata.items()}
        say_document("inspection", document)
    else:
        say(_summary(result, projector))
        if adapter is not None or refused:
            say("\n" + (_adapter_text(adapter) if adapter is not None else f"adapter, not understood: {refused}"))
        if wanted is not None:
            say("\n" + _tensor_table(shown))
        if metadata:
            say("\n" + _metadata_text(result))
    if html is not None:
        _write_page(html, result, about)


def _write_page(path: Path, result: Report, about: Mapping[str, Json]) -> None:
    """All tensors and all metadata, whatever was asked for on the terminal."""
    from requant.cli.pages.inspection import inspection_page
    from requant.cli.pages.writing import write_page

    checkpoint = result.checkpoint
    document: dict[str, object] = {**result.to_json(checkpoint.tensors), **about}
    document["config"] = checkpoint.config
    document["metadata"] = {key: field.value for key, field in checkpoint.metadata.items()}
    remark(write_page(path, inspection_page(document)))


def _adapter(checkpoint: Checkpoint[Tensor]) -> tuple[About | None, str]:
    """What kind of adapter it is, if it is one; or why that is not understood."""
    if not is_any_adapter(checkpoint):
        return None, ""
    from requant.adapters.told import about

    try:
        return about(checkpoint), ""
    except Error as error:
        return None, printable(str(error), 1000)


def _adapter_text(adapter: About) -> str:
    alpha = "" if adapter.alpha is None else f", alpha {adapter.alpha:g}"
    scales = ", ".join(f"{scale:g}" for scale in adapter.scales)
    targets = ", ".join(f"{printable(role)} ({n})" for role, n in adapter.targets.items())
    ranks = ", ".join(map(str, adapter.ranks)) or "none"
    lines = [
        f"adapter            {adapter.kind}, rank {ranks}{alpha}, scale {scales}",
        f"  parameters       {count(adapter.parameters)}",
        f"  targets          {targets or 'none'}",
    ]
    lines += [f"  base model       {printable(adapter.base, 200)}"] if adapter.base else []
    lines += [f"  whole tensors    {', '.join(map(printable, adapter.saved))}"] if adapter.saved else []
    lines += [f"  trained tokens   {adapter.tokens}"] if adapter.tokens else []
    return "\n".join(lines)


def _projector(checkpoint: Checkpoint[Tensor]) -> Projector | None:
    """What sees or hears in it, if it is a projector."""
    if checkpoint.architecture != PROJECTOR:
        return None
    from requant.projectors.told import about

    return about(checkpoint)


def _projector_text(projector: Projector) -> list[str]:
    lines = []
    for tower in projector.towers:
        said = dict(tower.numbers)
        image, patch, bins = (said.pop(key, 0) for key in ("image_size", "patch_size", "mel_bins"))
        parts = [f"pictures of {image} x {image}"] if image else []
        parts += [f"patches of {patch} x {patch}"] if patch else []
        parts += [f"{bins} mel bins"] if bins else []
        parts += [f"{number} {name}" if name != "width" else f"width {number}" for name, number in said.items()]
        lines.append(f"  {tower.sense:<15}  {printable(tower.kind) or 'kind not stated'}: {', '.join(parts)}")
    return [*lines, *([f"  text model       width {projector.text_width}"] if projector.text_width else [])]


def _summary(result: Report, projector: Projector | None) -> str:
    checkpoint, total = result.checkpoint, result.total
    path = printable(str(checkpoint.path), None)
    tied = ", output tied to the embedding" if result.tied_output and result.by_layer else ""
    lines = [
        f"{path}  ({result.format}, architecture {printable(checkpoint.architecture) or 'not stated'})",
        *([f"  file type        {printable(result.file_type)}"] if result.file_type else []),
        f"  parameters       {count(total.weights)} in {total.tensors} tensors{tied}",
        f"  size             {size(result.file_bytes)} ({count(result.file_bytes)} bytes)",
        f"  bits per weight  {total.bits_per_weight:.3f}",
    ]
    lines += [] if projector is None else _projector_text(projector)
    lines += [f"  note             {printable(notice, 1000)}" for notice in checkpoint.notices]
    for memory in result.memory:
        purposes = f"weights {size(memory.weights)}, KV cache {size(memory.kv_cache)}, buffers ~{size(memory.compute)}"
        lines.append(f"  memory to run    {size(memory.total)} at {memory.context} tokens ({purposes})")
    types = [["type", "tensors", "parameters", "share", "bits/weight", "bytes"]]
    for name, share in result.by_type.items():
        percent = 100 * share.weights / total.weights if total.weights else 0.0
        types.append(
            [name, str(share.tensors), count(share.weights), f"{percent:.1f} %", _bits(share), size(share.nbytes)]
        )
    roles = [["role", "tensors", "bits/weight", "bytes", "types"]]
    for name, share in result.by_role.items():
        roles.append([name, str(share.tensors), _bits(share), size(share.nbytes), _types(share)])
    blocks = [
        "\n".join(lines),
        table(types, right=frozenset({1, 2, 3, 4, 5})),
        table(roles, right=frozenset({1, 2, 3})),
    ]
    if result.exl2_widths:
        blocks.insert(2, _widths(result))
    if result.by_layer:
        blocks.append(_layers(result))
    return "\n\n".join(blocks)


def _widths(result: Report) -> str:
    """How many weights of EXL2 layers have codes of how many bits."""
    total = sum(result.exl2_widths.values())
    rows = [["EXL2 bits", "parameters", "share"]]
    for bits, weights in result.exl2_widths.items():
        rows.append([str(bits), count(weights), f"{100 * weights / total:.1f} %"])
    return table(rows, right=frozenset({0, 1, 2}))


def _layers(result: Report) -> str:
    """Bits per weight of every layer; neighbours of the same make-up share a line."""
    rows = [["layers", "bits/weight", "bytes each", "types"]]
    groups: list[tuple[int, int, Share]] = []
    for number, share in result.by_layer.items():
        if groups and groups[-1][2] == share and groups[-1][1] == number - 1:
            groups[-1] = (groups[-1][0], number, share)
        else:
            groups.append((number, number, share))
    for first, last, share in groups:
        name = str(first) if first == last else f"{first}-{last}"
        rows.append([name, _bits(share), size(share.nbytes), _types(share)])
    return table(rows, right=frozenset({1, 2}))


def _tensor_table(tensors: Sequence[Tensor]) -> str:
    rows = [["tensor", "shape", "type", "bits/weight", "bytes"]]
    for tensor in tensors:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        rows.append([tensor.name, shape, short_label(tensor.encoding), _bits(share_of([tensor])), count(tensor.nbytes)])
    return table(rows, right=frozenset({3, 4}))


def _metadata_text(result: Report) -> str:
    checkpoint = result.checkpoint
    rows = [["key", "type", "value"]]
    rows += [[key, field.kind, _short(field)] for key, field in checkpoint.metadata.items()]
    rows += [[key, "json", json.dumps(value)] for key, value in checkpoint.config.items()]
    return table(rows)


def _short(field: Typed) -> str:
    value = field.value
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 100 else f"{text[:97]}... ({len(value)} characters)"
    shown = ", ".join(json.dumps(item, ensure_ascii=False, default=str) for item in value[:_SHOWN_ITEMS])
    return f"[{shown}{f', ... {count(len(value))} items' if len(value) > _SHOWN_ITEMS else ''}]"


def _plain(value: object) -> Json:
    if isinstance(value, (bool, int, float, str)):
        return value
    assert isinstance(value, Sequence)
    return [_plain(item) for item in value]


def _bits(share: Share) -> str:
    return f"{share.bits_per_weight:.3f}"


def _types(share: Share) -> str:
    return ", ".join(f"{n} x {label}" if len(share.types) > 1 or n > 1 else label for label, n in share.types.items())
