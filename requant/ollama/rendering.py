"""A chat template on conversations, by `sandbox` in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.errors import PlanError

#: Seconds after which nobody waits for a template any longer.
PATIENCE: Final = 30
_PROGRAM: Final = Path(__file__).with_name("sandbox.py")

#: Who says what.
Message = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: role and text of each. speaks: whether the assistant is to speak next (add_generation_prompt)."""

    messages: tuple[Message, ...]
    speaks: bool = True


class Unrenderable(Exception):
    """The template says no, or nothing; the message says why."""


def need_jinja2() -> None:
    """Raises `PlanError` where jinja2 is missing."""
    if importlib.util.find_spec("jinja2") is None:
        raise PlanError(
            "--ollama reads chat templates with jinja2, which is missing", hint='pip install "requant[html]"'
        )


def rendered(template: str, names: dict[str, str], conversations: Sequence[Conversation]) -> list[str | Unrenderable]:
    """Each conversation as the Jinja `template` writes it, or why it does not.

    names: bos_token and eos_token. Raises `Unrenderable` where there is no answer at all.
    """
    asked = {
        "template": template,
        "names": names,
        "conversations": [
            [[{"role": role, "content": text} for role, text in one.messages], one.speaks] for one in conversations
        ],
    }
    try:
        done = subprocess.run(  # -P: the folder that we are in has no say in what is imported
            [sys.executable, "-P", str(_PROGRAM)],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        answers = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines()
        raise Unrenderable(told[-1] if told else "rendering it takes too much time or memory") from error
    except subprocess.TimeoutExpired as error:
        raise Unrenderable("rendering it takes too much time") from error
    return [answer["text"] if "text" in answer else Unrenderable(answer["error"]) for answer in answers]
