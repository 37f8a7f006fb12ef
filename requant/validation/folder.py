"""Hugging Face folders and files of safetensors or PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from requant.adapters.recognized import CONFIG as ADAPTER
from requant.adapters.recognized import is_adapter
from requant.errors import Error, FormatError
from requant.formats import detect, opened
from requant.formats.safetensors import Safetensors
from requant.formats.safetensors.folder import CONFIG, read_config
from requant.formats.safetensors.header import read_header
from requant.formats.safetensors.params import PARAMS
from requant.formats.torch_zip import TorchZip
from requant.ir import Checkpoint, Json, Tensor, flat_config
from requant.json_values import parse_json
from requant.sources import read
from requant.validation.findings import Report
from requant.validation.template import trouble_of

#: Rules of the reader of safetensors that GGUF has as well, under the names they have there.
_RULES: Final = {"trailing-bytes": "bytes-left-over"}
_GENERATION: Final = "generation_config.json"
_CHAT_FILE: Final = "chat_template.jinja"
_TOKENIZER: Final = "tokenizer_config.json"
_IDS: Final = tuple(f"{name}_token_id" for name in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos"))
#: Any of these makes a folder one with a tokenizer.
TOKENIZERS: Final = frozenset(
    [
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "vocab.json",
        "vocab.txt",
        "tekken.json",
        "tiktoken.model",
        "qwen.tiktoken",
    ]
)


def read_folder(path: Path, report: Report) -> Checkpoint[Tensor] | None:
    """The model, if its files can be read and its arrays put together; the report says what is wrong with them."""
    before = len(report.findings)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    for file in files:
        if file.suffix == ".safetensors":
            _check_header(file, report)
    if path.is_dir():
        with report.noting("config", CONFIG):
            config = read_config(path)
            if not config and not any((path / name).exists() for name in (ADAPTER, PARAMS)):
                report.add("config", f"there is no {CONFIG}", "fetch it into the folder")
    if len(report.findings) > before:
        report.unchecked.append("the model: its files have to be mended first")
        return None
    return _put_together(path, report)


def _check_header(file: Path, report: Report) -> None:
    def note(rule: str, error: Error) -> None:
        report.object(_RULES.get(rule, rule), error)

    with report.noting_all("readable", file):
        read_header(file, note)
        report.checked.append(file.name)


def _put_together(path: Path, report: Report) -> Checkpoint[Tensor] | None:
    found = detect(path)
    assert isinstance(found, Safetensors | TorchZip)
    stored = None
    with report.noting("shards", "the weight files"):
        stored = found.stored(path)
    if stored is None:
        return None
    for notice in stored.notices:
        report.add("index" if ".index.json" in notice else "suspect", notice)
    with report.noting("quantization", "what the arrays mean"):
        _, model = opened(path, as_stored=True)
        for notice in model.notices:
            if notice not in stored.notices:
                report.add("suspect", notice)
        if model.obstacle is not None:
            raise model.obstacle
        return model
    return None


def is_model(source: Checkpoint[Tensor]) -> bool:
    """Whether it has what a family's rules are of: a configuration, and weights that are no adapter."""
    return bool(source.config) and not is_adapter(source)


def check_files(source: Checkpoint[Tensor], rows: int | None, report: Report) -> None:
    """What lies beside the weights: tokenizer, chat template, ids of special tokens."""
    if rows is not None:
        _check_ids(source, rows, report)
    _check_templates(source, report)
    if not TOKENIZERS & source.files.keys():
        report.unchecked.append("tokenizer: the folder has none")
        return
    from requant.tokenizers.files import Files
    from requant.tokenizers.ggml import to_ggml
    from requant.tokenizers.vocabulary import rowless

    with report.noting("tokenizer", "tokenizer"):
        to_ggml(source, rows)
        for token in rowless(Files(source, rows)):
            report.add("token-rows", f"token {token.id} has no row: the embedding has {rows}")
        report.checked.append("tokenizer")


def _check_ids(source: Checkpoint[Tensor], rows: int, report: Report) -> None:
    places: list[tuple[str, Mapping[str, Json]]] = [(CONFIG, flat_config(source.config))]
    if _GENERATION in source.files:
        with report.noting("special-ids", _GENERATION):
            data = read(source.files[_GENERATION]).tobytes()
            places.append((_GENERATION, parse_json(data, source.folder / _GENERATION).object()))
    for name, values in places:
        for key, value in _ids(values):
            if value >= rows:
                report.add("special-ids", f"{name}: {key} is {value}; the embedding has {rows} rows")
    report.checked.append("ids of special tokens")


def _ids(values: Mapping[str, Json]) -> Iterator[tuple[str, int]]:
    """Ids that generation goes by; others may stand for what is no token, such as a picture's place."""
    for key, value in values.items():
        if key in _IDS:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int) and not isinstance(item, bool):
                    yield key, item


def _check_templates(source: Checkpoint[Tensor], report: Report) -> None:
    try:
        for name, text in _templates(source):
            if trouble := trouble_of(text):
                report.add("chat-template", f"{name}: {trouble}")
    except ImportError:
        report.unchecked.append("chat template: jinja2 is not installed (requant[html] brings it)")
    except FormatError as error:
        report.object("tokenizer", error)


def _templates(source: Checkpoint[Tensor]) -> Iterator[tuple[str, str]]:
    if _CHAT_FILE in source.files:
        yield _CHAT_FILE, read(source.files[_CHAT_FILE]).tobytes().decode("utf-8", "replace")
    if _TOKENIZER in source.files:
        config = parse_json(read(source.files[_TOKENIZER]).tobytes(), source.folder / _TOKENIZER)
        told = config.get("chat_template").value
        named = told if isinstance(told, list) else [{"name": "", "template": told}]
        for one in named:
            if isinstance(one, dict) and isinstance(text := one.get("template"), str):
                yield f"{_TOKENIZER}, chat_template {one.get('name') or ''}".rstrip(), text
