"""The chat template of the result: of a name, a text, a file, or the one that most models have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from requant.errors import PlanError
from requant.json_values import parse_json
from requant.merging.model import Model
from requant.sources import Memory, Source, read

_CONFIG: Final = "tokenizer_config.json"
_FILES: Final = ("chat_template.jinja", "chat_template.json")
_TURN: Final = "{% for message in messages %}"
_END: Final = "{% endfor %}"
#: Templates by the names that mergekit's recipes use.
TEMPLATES: Final[Mapping[str, str]] = {
    "chatml": _TURN
    + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{{ bos_token }}"
    + _TURN
    + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + (message['content'] | trim) "
    + "+ '<|eot_id|>' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": "{{ bos_token }}"
    + _TURN
    + "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    + "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    + _END,
    "alpaca": _TURN
    + "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    + "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    + "{% else %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    + _END
    + "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
}


def template_of(asked: str, models: Sequence[Model]) -> str | None:
    """What a recipe's `chat_template` means; None if `auto` finds no template. Raises `PlanError` for what is none."""
    if asked == "auto":
        found = Counter(text for model in models if (text := _own(model.files)) is not None)
        return found.most_common(1)[0][0] if found else None
    if asked in TEMPLATES:
        return TEMPLATES[asked]
    if "{" in asked:
        return asked
    if asked.endswith(".jinja") and Path(asked).is_file():
        return Path(asked).read_text("utf-8", "replace")
    names = ", ".join(TEMPLATES)
    raise PlanError(
        f"chat_template: {asked!r} is neither a template nor known", hint=f"auto, {names}, or a .jinja file"
    )


def with_template(files: Mapping[str, Source], template: str | None) -> dict[str, Source]:
    """Tokenizer files with this template, in tokenizer_config.json alone."""
    if template is None:
        return dict(files)
    config = {**_json(files, _CONFIG), "chat_template": template}
    kept = {name: source for name, source in files.items() if name not in _FILES}
    return {**kept, _CONFIG: Memory(json.dumps(config, ensure_ascii=False, indent=2).encode())}


def _own(files: Mapping[str, Source]) -> str | None:
    """A model's template."""
    if "chat_template.jinja" in files:
        return read(files["chat_template.jinja"]).tobytes().decode("utf-8", "replace").strip()
    template = _json(files, _CONFIG).get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template.strip() if isinstance(template, str) and template.strip() else None


def _json(files: Mapping[str, Source], name: str) -> dict[str, Any]:
    return parse_json(read(files[name]).tobytes(), Path(name)).object() if name in files else {}
