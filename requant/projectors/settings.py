"""What a folder says of its encoders: config.json by paths, with what preprocessor files say beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Config, Key
from requant.architectures.values import checked
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.json_values import CONFIG, TOKENIZER, parse_json
from requant.projectors.rules import PREPROCESSOR
from requant.sources import read

#: Files that say how pictures are prepared, the later counts; what they nest, and what lies at the top as well.
_FILES: Final = (("preprocessor_config.json", "media_proc_cfg"), ("processor_config.json", "image_processor"))


def settings_of(checkpoint: Checkpoint[Tensor]) -> dict[str, Json]:
    """Every value of config.json by its path; `preprocessor.…`: what the preprocessor's files say.

    Raises `FormatError` for a file that is no JSON object.
    """
    found = flattened(checkpoint.config)
    for name, nested in _FILES:
        if name not in checkpoint.files:
            continue
        said = parse_json(bytes(read(checkpoint.files[name])), checkpoint.folder / name, CONFIG).object()
        inner = said.get(nested)
        for part in (said, inner if isinstance(inner, dict) else {}):
            found |= {PREPROCESSOR + key: value for key, value in part.items()}
    return found


def flattened(config: Config) -> dict[str, Json]:
    """Every value of config.json by its path."""
    return dict(_paths(config, ""))


def _paths(config: Mapping[str, Json], before: str) -> Iterator[tuple[str, Json]]:
    for key, value in config.items():
        yield before + key, value
        if isinstance(value, dict):
            yield from _paths(value, f"{before}{key}.")


def to_ggml(keys: tuple[Key, ...], config: Config, *, prepared: bool) -> tuple[dict[str, Json], dict[str, Typed]]:
    """The settings with every default filled in, and the GGUF keys without prefix.

    prepared: whether there is a file about the preprocessor.
    """
    settings: dict[str, Json] = dict(config)
    values: dict[str, Typed] = {}
    for key in keys:
        name = next((name for name in key.hf if config.get(name) is not None), "")
        value = config[name] if name else None
        if value is None and key.default is not None:
            value = key.default(settings)
        elif value is None:
            raise _missing(key.hf[0], prepared=prepared)
        if key.hf:
            settings[key.hf[0]] = value
        if value is not None:
            values[key.ggml] = Typed(key.kind, checked(value, key.kind, where(name or (key.hf or (key.ggml,))[0])))
    return settings, values


def where(name: str) -> str:
    """A path as messages name it."""
    if name.startswith(PREPROCESSOR):
        return f"preprocessor_config.json: {name.removeprefix(PREPROCESSOR)}"
    return f"config.json: {name}"


def _missing(name: str, *, prepared: bool) -> PlanError:
    if name.startswith(PREPROCESSOR) and not prepared:
        return PlanError(
            f"preprocessor_config.json is missing, which says {name.removeprefix(PREPROCESSOR)!r}",
            hint="fetch preprocessor_config.json (or processor_config.json) of the model into the folder",
        )
    return PlanError(f"{where(name)} is missing")


def token_number(checkpoint: Checkpoint[Tensor], token: str) -> int:
    """The number of an added token, as tokenizer_config.json or tokenizer.json has it.

    Raises `PlanError` where neither does.
    """
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if name not in checkpoint.files:
            continue
        said = parse_json(bytes(read(checkpoint.files[name])), checkpoint.folder / name, TOKENIZER)
        decoder = said.object().get("added_tokens_decoder")
        for number, about in decoder.items() if isinstance(decoder, dict) else ():
            if isinstance(about, dict) and about.get("content") == token and number.isdecimal():
                return int(number)
        for item in said.get("added_tokens").items():
            if item.get("content").value == token:
                return item.get("id").integer()
    raise PlanError(
        f"no tokenizer file has the token {token!r}, whose embedding the projector needs",
        hint="fetch tokenizer_config.json and tokenizer.json of the model into the folder",
    )


def whole(config: Config, name: str, absent: int | None = None) -> int:
    """A count above 0 at a path; `absent` where there is none."""
    value = config.get(name)
    if value is None and absent is not None:
        return absent
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise PlanError(f"{where(name)} is {shown(value)}, a whole number above 0 is needed")
    return value
