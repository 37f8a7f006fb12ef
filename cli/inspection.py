"""What `requant inspect` says to people: the model, its adapter or projector, its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from requant.adapters.recognized import is_any_adapter
from requant.cli.tables import count, size, table
from requant.cli.terminal import warning, width
from requant.errors import Error
from requant.formats.gguf.arrays import Array
from requant.ir import PROJECTOR, Checkpoint, Json, Naming, Tensor, Typed
from requant.operations.inspect import Report, Share
from requant.printable import printable
from requant.tokenizers.keys import CHAT_TEMPLATE, MODEL, PRE, TOKENS

if TYPE_CHECKING:
    from requant.adapters.told import About as Adapter
    from requant.projectors.told import About as Projector

#: Types of a cache that are shown.
_CACHES: Final = ("f16", "q8_0", "q5_1", "q4_0")
#: The architecture that control vectors have in place of their model's.
_CONTROL: Final = "controlvector"
#: Metadata arrays are shown up to this many items.
_SHOWN_ITEMS: Final = 6


@dataclass(frozen=True, slots=True)
class About:
    """What a checkpoint is besides a model: an adapter, one that is not understood (and why), or a projector."""

    adapter: Adapter | None = None
    refused: str = ""
    projector: Projector | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint[Tensor]) -> About:
        """Of what was opened."""
        if checkpoint.architecture == PROJECTOR:
            from requant.projectors.told import about as projector_of

            return cls(projector=projector_of(checkpoint))
        if not is_any_adapter(checkpoint):
            return cls()
        from requant.adapters.told import about as adapter_of

        try:
            return cls(adapter_of(checkpoint))
        except Error as error:
            return cls(refused=printable(str(error), 1000))

    def to_json(self) -> dict[str, Json]:
        """Keys of the document."""
        told: dict[str, Json] = {}
        if self.adapter is not None or self.refused:
            told["adapter"] = {"not_understood": self.refused} if self.adapter is None else self.adapter.to_json()
        if self.projector is not None:
            told["projector"] = self.projector.to_json()
        return told


def _adapter_text(adapter: Adapter) -> str:
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


def summary(result: Report, about: About, oddities: Sequence[str] = ()) -> str:
    """What it is, what it takes, and how the bits are spread. oddities: what is strange about its numbers."""
    checkpoint, total = result.checkpoint, result.total
    path = printable(result.title, None)
    tied = ", output tied to the embedding" if result.tied_output and result.by_layer else ""
    lines = [
        f"{path}  ({result.format}, architecture {printable(checkpoint.architecture) or 'not stated'})",
        *([f"  file type        {printable(result.file_type)}"] if result.file_type else []),
        f"  parameters       {count(total.weights)} in {total.tensors} tensors{tied}",
        f"  size             {size(result.file_bytes)} ({count(result.file_bytes)} bytes)",
        f"  bits per weight  {total.bits_per_weight:.3f}",
    ]
    lines += [] if about.projector is None else _projector_text(about.projector)
    lines += [f"  {warning('note')}             {printable(one, 1000)}" for one in (*checkpoint.notices, *oddities)]
    lines += [*_origin_text(result), *_vocabulary_text(checkpoint), *_speed_text(result)]
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
        *([_memory_table(result)] if result.memory else []),
        table(types, right=frozenset({1, 2, 3, 4, 5})),
        table(roles, right=frozenset({1, 2, 3}), width=width()),
    ]
    if result.exl2_widths or len(result.code_widths) > 1:
        blocks.insert(-1, _widths(result))
    if result.by_layer:
        blocks.append(_layers(result))
    if about.adapter is not None:
        blocks.append(_adapter_text(about.adapter))
    if about.refused:
        blocks.append(f"adapter, not understood: {about.refused}")
    return "\n\n".join(blocks)


def _origin_text(result: Report) -> list[str]:
    origin = result.origin
    said = {
        "name": origin.name,
        "by": origin.author,
        "licence": origin.licence,
        "made of": ", ".join(origin.bases),
        "data sets": ", ".join(origin.datasets),
        "rounded": origin.rounding,
    }
    return [f"  {what:<15}  {printable(text)}" for what, text in said.items() if text]


def _vocabulary_text(checkpoint: Checkpoint[Tensor]) -> list[str]:
    """Of a GGUF, what its metadata say without a look at the tokens; and what a control vector steers."""
    values = {key: typed.value for key, typed in checkpoint.metadata.items()}
    tokens, template = values.get(TOKENS), values.get(CHAT_TEMPLATE)
    lines = []
    if isinstance(tokens, Sequence) and not isinstance(tokens, str):
        kinds = ", ".join(printable(str(values[key])) for key in (MODEL, PRE) if key in values)
        lines.append(f"  tokenizer        {count(len(tokens))} tokens ({kinds}; --tokenizer, --tokens REGEX)")
    if isinstance(template, str):
        lines.append(f"  chat template    {count(len(template))} characters (--template)")
    if checkpoint.architecture == _CONTROL:
        hint = printable(str(values.get(f"{_CONTROL}.model_hint", "") or "not stated"))
        lines.append(f"  steers           layers of a model of the architecture {hint}")
    return lines


def _speed_text(result: Report) -> list[str]:
    """The bound on the speed, and what it is one of."""
    speed = result.running.speed if result.running else None
    if speed is None or not speed.weights:
        return []
    used, experts = speed.experts
    read = f"{size(speed.weights)} of weights" + (f" ({used} of {experts} experts)" if experts else "")
    at_most = f"{_rate(speed.tokens_per_second)} tokens/s at most, at {speed.bandwidth / 1e9:g} GB/s (--bandwidth):"
    full = f"{_rate(speed.tokens_per_second_full)} with {count(speed.context)} in the cache"
    return [f"  speed bound      {at_most}", f"                   each reads {read}; {full}"]


def _rate(speed: float) -> str:
    return f"{speed:.3g}" if speed < 100 else count(round(speed))


def _memory_table(result: Report) -> str:
    """What llama.cpp takes, by the length of the context and the type of the cache."""
    first = result.memory[0]
    types = [name for name in _CACHES if name in first.caches] if first.kv_cache else ["f16"]
    rows = [["context", "weights", "buffers", *(f"KV {name}" for name in types), "in all, f16"]]
    for memory in result.memory:
        caches = [size(memory.caches[name]) for name in types]
        rows.append(
            [count(memory.context), size(memory.weights), f"~{size(memory.compute)}", *caches, size(memory.total)]
        )
    return table(rows, right=frozenset(range(len(rows[0]))))


def _widths(result: Report) -> str:
    """How many weights of quantized layers have codes of how many bits."""
    total = sum(result.code_widths.values())
    rows = [["code bits", "parameters", "share"]]
    for bits, weights in result.code_widths.items():
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
    return table(rows, right=frozenset({1, 2}), width=width())


def metadata_text(result: Report) -> str:
    """Every key, its type, and what it holds, shortened."""
    import json

    from requant.formats.gguf.outline import outlines

    checkpoint = result.checkpoint
    rows = [["key", "type", "value"]]
    rows += [[key, field.kind, _short(field)] for key, field in checkpoint.metadata.items()]
    rows += [[key, "json", json.dumps(value)] for key, value in checkpoint.config.items()]
    lines = [
        f"{printable(one.name)}: GGUF version {one.version}, {count(one.tensors)} tensors, {count(one.keys)} keys, "
        f"alignment {count(one.alignment)}" + ("" if one.data is None else f", tensors from byte {count(one.data)} on")
        for one in (outlines(checkpoint) if checkpoint.naming is Naming.GGML and checkpoint.opened else ())
    ]
    return "\n".join([table(rows, width=width()), *([""] if lines else []), *lines])


def _short(field: Typed) -> str:
    import json

    value = field.value
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 100 else f"{text[:97]}... ({len(value)} characters)"
    shown = ", ".join(json.dumps(item, ensure_ascii=False, default=str) for item in value[:_SHOWN_ITEMS])
    return f"[{shown}{f', ... {count(len(value))} items' if len(value) > _SHOWN_ITEMS else ''}]"


def plain(value: object) -> Json:
    """A value of metadata as JSON has it."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Array):  # at once: a vocabulary has hundreds of thousands of items
        found: list[Json] = value.tolist()
        return found
    assert isinstance(value, Sequence)
    return [plain(item) for item in value]


def _bits(share: Share) -> str:
    return f"{share.bits_per_weight:.3f}"


def _types(share: Share) -> str:
    return ", ".join(f"{n} x {label}" if len(share.types) > 1 or n > 1 else label for label, n in share.types.items())
