"""What `requant edit` does to a file, told before it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from requant import heads
from requant.cli import interrupts, options
from requant.cli.saying import say_document
from requant.cli.stages import byte_bar
from requant.cli.tables import count, size, table
from requant.cli.terminal import remark, say, width
from requant.editing.metadata import Changed, Edits, assignment, changes, edited, matching, tokenizer_of
from requant.errors import PlanError
from requant.formats.gguf.editing import GgufModel
from requant.heads import Head, Rewriting, Way
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.json_values import parse_json
from requant.nearest import did_you_mean
from requant.output import on_published
from requant.printable import printable

#: Characters of a value that are shown.
_SHOWN: Final = 48
#: Bytes of a tensor's name: GGML_MAX_NAME of llama.cpp counts a closing zero.
_NAME: Final = 63


@dataclass(frozen=True, slots=True)
class How:
    """What is edited, and how. room: bytes to reserve."""

    path: Path
    output: Path | None
    force: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    room: int


def edit_gguf(
    how: How,
    edits: Edits,
    tensors: Sequence[str],
    sources: Sequence[str],
    keys: Sequence[str],
    tokenizer_from: str | None,
) -> None:
    """A GGUF, in one file or several."""
    from requant.agreement import refuse_new

    model = GgufModel.of(how.path.parent.resolve() / how.path.name)
    names = _renamed_tensors(tensors, model)
    edits = replace(edits, **_of_sources(sources, keys))
    if tokenizer_from is not None:
        edits = replace(edits, tokenizer=_tokenizer(tokenizer_from, model, how.quiet))
    after = edited(model.metadata, edits, options.read_text)
    told = changes(model.metadata, after)
    if told or names:
        refuse_new(
            model.described(after, names),
            model.described(model.metadata, {}),
            "nothing was changed; give the keys that belong together in one command",
        )
    all_heads = model.changed(after, names, how.room)
    if how.output is not None:
        _copy(how, all_heads, told, names)
        return
    free = model.heads[0].free
    chosen = [head for index, head in enumerate(all_heads) if model.has_changed(index, after, names)]
    if how.room and all_heads[0] not in chosen and model.heads[0].free < how.room:
        chosen.insert(0, all_heads[0])
    _change(how, chosen, told, names, free)


def _of_sources(sources: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """What `--set-from` brings."""
    documents: list[Mapping[str, Json]] = []
    copied: dict[str, Typed] = {}
    hit = False
    for source in sources:
        path = Path(source)
        with path.open("rb") if path.is_file() else _none(path) as file:
            is_gguf = file.read(4) == b"GGUF"
        if not is_gguf:
            documents.append(parse_json(options.read_text(path).encode(), path).object())
            continue
        if not keys:
            raise PlanError(f"{path}: which of its keys?", hint="--keys 'general.*', or --tokenizer-from for those")
        copied |= matching(GgufModel.of(path).metadata, keys)
        hit = True
    if keys and not hit:
        raise PlanError("--keys goes with --set-from and a GGUF")
    return {"documents": tuple(documents), "copied": copied}


def _none(path: Path) -> Any:
    raise PlanError(f"{path}: there is no such file", hint="--set-from takes a JSON object in a file, or a GGUF")


def _tokenizer(name: str, model: GgufModel, quiet: bool) -> Mapping[str, Typed]:
    """The tokenizer of another model, as this one's embedding has room for it."""
    from requant import formats
    from requant.ir import Naming

    other = formats.open(options.located(name, quiet))
    if other.naming is Naming.GGML:
        return tokenizer_of(other.metadata)
    from requant import tokenizers

    return tokenizers.to_ggml(other, _rows(model.described(model.metadata, {}))).metadata


def _rows(model: Checkpoint[Tensor]) -> int | None:
    return next((tensor.shape[0] for tensor in model.tensors if tensor.name == "token_embd.weight"), None)


def _renamed_tensors(texts: Sequence[str], model: GgufModel) -> dict[str, str]:
    there = {tensor.name for head in model.heads for tensor in head.header.tensors}
    names: dict[str, str] = {}
    for text in texts:
        old, new = assignment(text, "--rename-tensor", "OLD=NEW")
        if old not in there:
            raise PlanError(f"there is no tensor {printable(old)!r}", hint=did_you_mean(old, there, ""))
        if not 0 < len(new.encode("utf-8", "surrogatepass")) <= _NAME or "\0" in new:
            raise PlanError(f"{printable(new)!r} is no name for a tensor: llama.cpp reads 1 to {_NAME} bytes")
        if names.setdefault(old, new) != new:
            raise PlanError(f"tensor {printable(old)!r} is renamed twice")
    after: set[str] = set()
    for name in (names.get(name, name) for name in sorted(there)):
        if name in after:
            raise PlanError(f"two tensors would be named {printable(name)!r}", hint="rename the other one, too")
        after.add(name)
    return {old: new for old, new in names.items() if old != new}


def change_file(how: How, head: Head, told: Sequence[Changed], free: int) -> None:
    """A file that has no names to be changed: itself, or a copy of it."""
    if how.output is not None:
        _copy(how, [head], told, {})
        return
    _change(how, [head] if told or free < how.room else [], told, {}, free)


def refuse_links(paths: Iterable[Path]) -> None:
    """A link may lead to a file that others use, in the Hub's cache above all."""
    for path in paths:
        if path.is_symlink():
            raise PlanError(
                f"{path} is a link to {path.resolve()}, which others may use",
                hint="name that file, or write a copy: -o OUT",
            )


def _change(how: How, chosen: Sequence[Head], told: Sequence[Changed], names: Mapping[str, str], free: int) -> None:
    """The file itself, or its files."""
    if not how.dry_run:
        heads.remove_left_over(how.path)
    if not chosen:
        _report(how, None, told, names, free, [how.path])
        return
    plan = heads.planned(chosen)
    linked = [head.path for head in chosen if head.path.stat().st_nlink > 1]
    if linked and not how.force:
        what = (
            "would change under all of them" if plan.way in (Way.IN_PLACE, Way.INSERT) else "would be parted from them"
        )
        raise PlanError(
            f"{linked[0]} has other names (hard links), and {what}", hint="--force does that; -o OUT writes a copy"
        )
    _report(how, plan, told, names, free, [head.path for head in chosen])
    if how.dry_run:
        return
    on_published.append(interrupts.completed)
    try:
        with interrupts.cleaning_up(), _bar(plan, how) as told_bytes:
            done = heads.rewrite(plan, told_bytes)
    finally:
        on_published.remove(interrupts.completed)
    if done is not plan.way and not how.quiet:
        remark(f"{how.path}: {done.value} after all, as the file system or another program had it")
    if how.as_json:
        _say(how, done, told, names, plan, free, [head.path for head in chosen])


def _advance(bar: Any, count: int) -> None:
    bar.update(count)


@contextmanager
def _bar(plan: Rewriting, how: How) -> Iterator[Callable[[int], None]]:
    """Progress where data is read, and nothing imported for it elsewhere."""
    total = sum(head.data.nbytes for head in plan.heads)
    if plan.way in (Way.IN_PLACE, Way.SHARE):
        yield lambda count: None
        return
    with byte_bar(total, "copying", how.quiet or how.as_json) as bar:
        yield lambda count: _advance(bar, count)


def _copy(how: How, all_heads: Sequence[Head], told: Sequence[Changed], names: Mapping[str, str]) -> None:
    """Another file, or other files."""
    output = how.output
    assert output is not None
    if len(all_heads) > 1:
        from requant.formats.gguf.shards import prefix_of, shard_name

        prefix = prefix_of(output.name) or output.name.removesuffix(".gguf")
        places = [output.with_name(shard_name(prefix, n, len(all_heads))) for n in range(len(all_heads))]
    else:
        places = [output]
    for place in places:
        options.refuse_to_overwrite(place, how.force or how.dry_run)
        if place.exists() and any(place.samefile(head.path) for head in all_heads):
            raise PlanError(f"{place} is both input and output", hint="leave -o out to edit it")
    plan = heads.planned_copy(all_heads, output.parent)
    _report(how, plan, told, names, 0, places)
    if how.dry_run:
        return
    on_published.append(interrupts.completed)
    try:
        with interrupts.cleaning_up(), _bar(plan, how) as told_bytes:
            done = heads.copy(plan, places, told_bytes)
    finally:
        on_published.remove(interrupts.completed)
    if how.as_json:
        _say(how, done, told, names, plan, 0, places)


def _report(
    how: How,
    plan: Rewriting | None,
    told: Sequence[Changed],
    names: Mapping[str, str],
    free: int,
    places: Sequence[Path],
) -> None:
    """What changes and how it will be done, for people; of a dry run, or where nothing changes, also for programs."""
    if how.as_json:
        if how.dry_run or plan is None:
            _say(how, None if plan is None else plan.way, told, names, plan, free, places)
        return
    if how.quiet:
        return
    rows = [[_sign(one), one.key, _shown(one.before), _shown(one.after)] for one in told]
    rows += [["~", f"tensor {old}", "", new] for old, new in names.items()]
    if rows:
        say(table([["", "key", "was", "is"], *rows], width=width()))
    where = printable(str(places[0]), None)
    if plan is None:
        say(f"{where}: nothing to change")
        return
    say(f"{where}: {_way(plan, free)}{' (nothing is written: --dry-run)' if how.dry_run else ''}")


def _way(plan: Rewriting, free: int) -> str:
    """`in place, 312 bytes of 4,096 free`."""
    head = plan.heads[0]
    left = plan.length - head.least
    if plan.way is Way.IN_PLACE:
        return f"in place; of {count(free)} free bytes, {count(left)} are left"
    if plan.way is Way.COPY:
        return f"a copy of {size(plan.copied + plan.length)}, {count(left)} bytes of it free"
    moved = size(head.data.nbytes)
    return f"{plan.way.value} ({moved} move by {count(plan.length - head.start)} bytes); {count(left)} bytes are free"


def _say(
    how: How,
    way: Way | None,
    told: Sequence[Changed],
    names: Mapping[str, str],
    plan: Rewriting | None,
    free: int,
    places: Sequence[Path],
) -> None:
    say_document(
        "edit",
        {
            "path": str(places[0]),
            "way": "none" if way is None else way.name.lower(),
            "dry_run": how.dry_run,
            "changes": [
                {"key": one.key, "type": _kind(one), "before": _plain(one.before), "after": _plain(one.after)}
                for one in told
            ],
            "tensors": dict(names),
            "files": [
                {"name": place.name, "bytes": _bytes(way, head)}
                for place, head in zip(places, plan.heads if plan else (), strict=bool(plan))
            ],
            "removed": [],
            "head_bytes": 0 if plan is None else plan.length,
            "free_bytes": free if plan is None else plan.length - plan.heads[0].least,
            "copied_bytes": 0 if plan is None or way is not Way.COPY else sum(h.data.nbytes for h in plan.heads),
        },
    )


def _bytes(way: Way | None, head: Head) -> int:
    """Of a file, once it has its head."""
    length = head.start if way is Way.IN_PLACE else head.wanted if way is Way.COPY else head.moved
    return length + head.data.nbytes


def _kind(one: Changed) -> str:
    typed = one.after or one.before
    assert typed is not None
    return typed.kind


def _sign(one: Changed) -> str:
    return "+" if one.before is None else "-" if one.after is None else "~"


def _shown(typed: Typed | None) -> str:
    if typed is None:
        return ""
    value: Any = typed.value
    if typed.kind.startswith("["):
        return f"{count(len(value))} x {typed.kind[1:-1]}"
    return printable(str(value).lower() if isinstance(value, bool) else str(value), _SHOWN)


def _plain(typed: Typed | None) -> object:
    """As JSON has it; of a list, how long it is."""
    if typed is None:
        return None
    value: Any = typed.value
    return {"items": len(value)} if typed.kind.startswith("[") else value
