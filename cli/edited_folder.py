"""What `requant edit` does to a safetensors file, and to the JSON files and the tokenizer of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from requant import formats
from requant.cli import interrupts, options
from requant.cli.edited import How, change_file, refuse_links
from requant.cli.saying import say_document
from requant.cli.tables import count, table
from requant.cli.terminal import say, width
from requant.editing import folder as editing
from requant.editing.folder import Documents
from requant.editing.metadata import Changed as Key
from requant.editing.metadata import assignment
from requant.editing.values import text_of
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Naming, Tensor, Typed
from requant.json_values import parse_json
from requant.layout import Layout, OutputFile
from requant.nearest import did_you_mean
from requant.output import OutputSet, on_published
from requant.printable import printable
from requant.sources import read

_TEMPLATE = "chat_template.jinja"
#: Characters of a value that are shown.
_SHOWN = 48


@dataclass(frozen=True, slots=True)
class Words:
    """What the command line says."""

    sets: tuple[str, ...]
    deletes: tuple[str, ...]
    renames: tuple[str, ...]
    sources: tuple[str, ...]
    template: str | None
    tokens: tuple[tuple[str, str], ...]
    rope_scaling: str | None
    tokenizer_from: str | None


def edit_safetensors(how: How, words: Words) -> None:
    """`__metadata__` of one file: texts."""
    if words.template is not None or words.tokens or words.rope_scaling or words.tokenizer_from:
        raise click.UsageError("a safetensors file has __metadata__ only; name the folder for template and tokens")
    from requant.formats.safetensors.editing import SafetensorsHead

    head = SafetensorsHead.of(how.path.parent.resolve() / how.path.name)
    before = head.metadata
    after = _texts(before, words)
    names = [*(key for key in before if key not in after), *after]
    told = [
        Key(key, _text(before.get(key)), _text(after.get(key))) for key in names if before.get(key) != after.get(key)
    ]
    change_file(how, head.changed(after, how.room), told, head.free)


def _text(value: str | None) -> Typed | None:
    return None if value is None else Typed("str", value)


def _texts(before: Mapping[str, str], words: Words) -> dict[str, str]:
    after = dict(before)
    for text in words.renames:
        old, new = assignment(text, "--rename", "OLD=NEW")
        if old not in after or new in after:
            what = f"there is no key {printable(old)!r}" if old not in after else f"there is a key {printable(new)!r}"
            raise PlanError(what, hint=did_you_mean(old, after, "") if old not in after else "choose another name")
        after = {new if key == old else key: value for key, value in after.items()}
    for key in words.deletes:
        if key not in after:
            raise PlanError(f"there is no key {printable(key)!r}", hint=did_you_mean(key, after, ""))
        del after[key]
    for source in words.sources:
        path = Path(source)
        for key, value in parse_json(options.read_text(path).encode(), path).object().items():
            if not isinstance(value, str):
                raise PlanError(f"{path}: {printable(key)} is no text, and safetensors has nothing else")
            after[key] = value
    given: dict[str, str] = {}
    for text in words.sets:
        key, value = assignment(text, "--set", "KEY=TEXT")
        value = text_of(value.removeprefix("str:"), options.read_text)
        if given.setdefault(key, value) != value:
            raise PlanError(f"{key} is set twice, to different values")
    after |= given
    for key in words.deletes:
        if key in after:
            raise PlanError(f"{printable(key)} is deleted, and set besides")
    return after


def edit_folder(how: How, words: Words) -> None:
    """config.json and its kind, the template, special tokens, and the whole tokenizer."""
    if how.output is not None or how.room:
        raise click.UsageError("-o and --reserve are for files; copy the folder first, if the old one is to stay")
    if strange := {role for role, _ in words.tokens} - {"bos", "eos", "pad", "unk", "sep", "mask"}:
        raise click.UsageError(f"--{min(strange)} is for GGUF files: transformers has no such token")
    if words.sources:
        raise click.UsageError("--set-from is for files; of a folder, --set config.KEY=json:@FILE sets what is in one")
    root = how.path.resolve()
    refuse_links(root / f"{name}.json" for name in editing.FILES)
    model = formats.open(root)
    if model.naming is not Naming.HF or not model.config:
        raise PlanError(f"{how.path}: this folder has no config.json")
    documents = Documents(_read(root), root)
    files, gone = _tokenizer(words.tokenizer_from, model, documents, how.quiet) if words.tokenizer_from else ({}, [])
    editing.edit_documents(documents, words.sets, words.deletes, words.renames, options.read_text)
    if words.rope_scaling is not None:
        editing.scale_rope(documents, words.rope_scaling)
    if words.tokens:
        tokens = _tokens(model) if not words.tokenizer_from else _tokens_of(words.tokenizer_from, how.quiet)
        for role, word in words.tokens:
            editing.set_token(documents, role, word, tokens)
    if words.template is not None:
        files[_TEMPLATE] = words.template.encode()
        if "tokenizer_config" in documents.found and documents.has("tokenizer_config.chat_template"):
            documents.delete("tokenizer_config.chat_template")  # the file comes before it
    told = documents.changes()
    for key in words.deletes:
        if documents.has(key):
            raise PlanError(f"{printable(key)} is deleted, and set besides")
    if any(one.key.startswith("config.") for one in told):
        _refuse_misfits(model, documents.found["config"])
    written = {**files, **documents.changed()}
    same = {name for name, data in written.items() if (root / name).is_file() and (root / name).read_bytes() == data}
    written = {name: data for name, data in written.items() if name not in same}
    gone = [name for name in gone if name not in written and name not in same]
    _report(how, told, written, gone)
    if written and not how.dry_run:
        _publish(root, written, gone)
    if how.as_json:
        _say(how, told, written, gone)


def _read(root: Path) -> dict[str, bytes]:
    return {name: (root / f"{name}.json").read_bytes() for name in editing.FILES if (root / f"{name}.json").is_file()}


def _tokens(model: Checkpoint[Tensor]) -> Sequence[str]:
    """The vocabulary of a folder, or of a GGUF."""
    if model.naming is Naming.HF:
        from requant import tokenizers

        metadata: Mapping[str, Typed] = tokenizers.to_ggml(model, None).metadata
    else:
        metadata = model.metadata
    typed = metadata.get("tokenizer.ggml.tokens")
    value: Any = typed.value if typed is not None else None
    if value is None:
        raise PlanError(f"{model.path}: there is no tokenizer, and so no token to name")
    return list(value)


def _tokens_of(name: str, quiet: bool) -> Sequence[str]:
    """The vocabulary of another model."""
    return _tokens(formats.open(options.located(name, quiet)))


def _tokenizer(
    name: str, model: Checkpoint[Tensor], documents: Documents, quiet: bool
) -> tuple[dict[str, bytes], list[str]]:
    """The tokenizer's files of another model, and which of this one go; ids are put into the documents."""
    from requant import tokenizers
    from requant.tokenizers.files import TOKENIZER_FILE

    other = formats.open(options.located(name, quiet))
    if other.naming is Naming.GGML:
        made = tokenizers.to_hf(other.metadata)
        files = {name: read(source).tobytes() for name, source in made.files.items()}
        ids: Mapping[str, Json] = made.config
    else:
        names = [name for name in other.files if TOKENIZER_FILE.fullmatch(name)]
        files = {name: read(other.files[name]).tobytes() for name in names}
        ids = other.config
    if not files:
        raise PlanError(f"{other.path}: there is no tokenizer")
    tokens, rows = len(_tokens(other)), _rows(model)
    if rows is not None and tokens > rows:
        raise PlanError(f"{other.path}: its vocabulary has {tokens} tokens, the embedding of {model.path} {rows} rows")
    for role in ("bos", "eos", "pad"):
        key = f"{role}_token_id"
        for file in (editing.CONFIG, editing.GENERATION):
            if file in documents.found and (key in ids or key in documents.found[file]):
                documents.set(f"{file}.{key}", ids.get(key))
    for file in ("tokenizer_config", "special_tokens_map"):
        data = files.pop(f"{file}.json", None)
        documents.found.pop(file, None)
        if data is not None:
            documents.found[file] = parse_json(data, other.folder / f"{file}.json").object()
    gone = [name for name in model.files if TOKENIZER_FILE.fullmatch(name) and name not in files]
    kept = {f"{name}.json" for name in documents.found}
    return files, [name for name in gone if name not in kept]


def _rows(model: Checkpoint[Tensor]) -> int | None:
    """Rows of the token embedding, by the count that config.json has; None where it has none."""
    size = model.config.get("vocab_size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _refuse_misfits(model: Checkpoint[Tensor], config: dict[str, Json]) -> None:
    """Raises `PlanError` for a config.json that its tensors contradict, if the old one had not the same trouble.

    One that does not say what kind of model it is has no meaning for any library.
    """
    if "model_type" in model.config and not isinstance(config.get("model_type"), str):
        hint = "transformers finds the classes by it"
        raise PlanError(f"{model.path}: config.json: 'model_type' is missing, or no text", hint=hint)
    trouble = _trouble(replace(model, config=config))
    if trouble is not None and trouble != _trouble(model):
        raise PlanError(trouble, hint="nothing was changed; give the keys that belong together in one command")


def _trouble(model: Checkpoint[Tensor]) -> str | None:
    from requant.architectures import translated
    from requant.plan import unchanged

    try:
        said = unchanged(model)
        for part in ("family", "hyperparameters", "names"):
            said = translated(said, Naming.GGML, part)
    except UnsupportedError:
        return None
    except PlanError as error:
        return str(error)
    return None


def _publish(root: Path, written: Mapping[str, bytes], gone: Sequence[str]) -> None:
    """All files at one time."""
    files = tuple(OutputFile(name, data, len(data)) for name, data in written.items())
    on_published.append(interrupts.completed)
    try:
        with (
            interrupts.cleaning_up(),
            OutputSet(Layout(root, files), [root / name for name in gone]) as output,
        ):
            output.publish()
    finally:
        on_published.remove(interrupts.completed)


def _report(how: How, told: Sequence[editing.Changed], written: Mapping[str, bytes], gone: Sequence[str]) -> None:
    if how.quiet or how.as_json:
        return
    rows = [["~", one.key, _shown(one.before), _shown(one.after)] for one in told]
    if rows:
        say(table([["", "key", "was", "is"], *rows], width=width()))
    where = printable(str(how.path), None)
    if not written:
        say(f"{where}: nothing to change")
        return
    dry = " (nothing is written: --dry-run)" if how.dry_run else ""
    removed = f"; removed: {', '.join(map(printable, gone))}" if gone else ""
    names = ", ".join(map(printable, written))
    say(f"{where}: {count(sum(map(len, written.values())))} bytes of {names} written anew{removed}{dry}")


def _shown(value: Json) -> str:
    return "" if value is None else printable(json.dumps(value, ensure_ascii=False), _SHOWN)


def _say(how: How, told: Sequence[editing.Changed], written: Mapping[str, bytes], gone: Sequence[str]) -> None:
    say_document(
        "edit",
        {
            "path": str(how.path),
            "way": "copy" if written else "none",
            "dry_run": how.dry_run,
            "changes": [{"key": one.key, "type": "json", "before": one.before, "after": one.after} for one in told],
            "tensors": {},
            "files": [{"name": name, "bytes": len(data)} for name, data in written.items()],
            "removed": list(gone),
            "head_bytes": 0,
            "free_bytes": 0,
            "copied_bytes": 0,
        },
    )
