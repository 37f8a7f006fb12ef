"""What `--card` does to plans, and what it says in front of a user."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from requant.cards import NAME
from requant.cli.terminal import remark
from requant.cli.writing import CardOptions
from requant.cli.writing import words as typed
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.importance import Importance
    from requant.ir import Checkpoint, Tensor
    from requant.plan import Plan

#: The folders of a path that is not beneath the folder one is in; they are nobody's business.
_FOLDERS: Final = re.compile(r"(^|=|@)(?:~[^/]*|\.{1,2})?/(?:[^/]*/)*(?=[^/]+/?$)")
#: What changes nothing that is written.
_TELLING: Final = frozenset({"--dry-run", "--tensors", "--explain", "--json", "--force", "-f", "--quiet", "-q"})
_KEY: Final = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cards:
    """Adds cards to plans where the user wants them; `named` is the source as it was typed."""

    options: CardOptions
    source: Checkpoint[Tensor]
    named: str
    importance: Importance | None
    quiet: bool
    adapter: bool = False

    def added(self, recipes: Sequence[str], plans: Sequence[Plan]) -> list[Plan]:
        """The plans, with cards; `recipes` is what each is made by, or nothing."""
        settings = settings_of(self.options)
        if not self.options.card:
            return list(plans)
        from requant.operations.card import Making, with_cards

        command = command_text(click.get_current_context().info_name or "", typed())
        making = Making(self.source, self.named, command, self.importance, settings, self.adapter)
        if "base_model" not in settings and not making.hub and not self.quiet:
            bases = ", ".join(making.bases)
            told = f"is {bases}, of which the source says it was made" if bases else "is left out: the source says none"
            remark(f"{NAME}: base_model {told}\n--card-set base_model=OWNER/NAME tells what the source is on the Hub")
        return with_cards(recipes, plans, making)

    def added_to(self, recipe: str | None, plan: Plan) -> Plan:
        """The same of one plan."""
        return self.added([(recipe or "").upper()], [plan])[0]


def settings_of(options: CardOptions) -> Mapping[str, Any]:
    """Front matter that the user gives; raises for what is no YAML or of no key."""
    found = {}
    for text in options.card_settings:
        key, equals, value = text.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as quantized_by=me", param_hint="--card-set")
        import yaml

        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise PlanError(f"--card-set {key}: the value is no YAML", hint=f"""quotes help: '{key}="..."'""") from None
    if found and not options.card:
        raise click.UsageError("--card-set goes with --card")
    return found


def command_text(name: str, given: Sequence[str]) -> str:
    """The command as it may be published: of paths elsewhere only the names, and without what changes nothing.

    >>> command_text("convert", ["/home/me/model", "out.gguf", "--imatrix=../mine/imatrix.gguf", "-q"])
    'requant convert model out.gguf --imatrix=imatrix.gguf'
    """
    words = (_FOLDERS.sub(r"\1", word) for word in given if word not in _TELLING)
    return shlex.join(["requant", name, *words])
