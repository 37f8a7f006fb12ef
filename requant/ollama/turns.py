"""Of what texts a chat template puts a conversation together.

Nearly every template writes a text before and after what each role says, and one where the assistant is to begin.
Those are found by rendering conversations whose contents are unmistakable and looking at what stands between them; then
other conversations are rendered, and must come out as the texts found say. A template that does anything else with
plain conversations has no `Turns`. Tools, images and thoughts are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from requant.ollama.rendering import Conversation, Message, Unrenderable, rendered


class Place(Enum):
    """Where a template writes what the system says."""

    OWN = "own"  # in a turn of its own
    FIRST = "first"  # in the first turn of the user
    LAST = "last"  # in the last turn of the user
    REFUSED = "refused"  # nowhere; it stops with an error


@dataclass(frozen=True, slots=True)
class Around:
    """What stands before and after a text."""

    before: str
    after: str

    def __call__(self, text: str) -> str:
        return f"{self.before}{text}{self.after}"


@dataclass(frozen=True, slots=True)
class Turns:
    """The texts of a template, without the token that llama.cpp puts before every text.

    start: what every conversation begins with. opening: what stands between `start` and the first turn where the
    system says nothing. place: of what the system says; `system` is what stands around it. first: what stands before
    the first text of the user instead of `user.before`, `opening` included; None where it is the same (always so if
    the system has a turn of its own). prompt: what stands where the assistant is to begin. default: what the system
    says where nobody makes it say anything; `opening` is it, then.
    """

    start: str
    opening: str
    place: Place
    system: Around
    user: Around
    assistant: Around
    prompt: str
    first: str | None = None
    default: str = ""

    def text(self, conversation: Conversation) -> str:
        """What the template writes of a conversation in which system, if it is there, speaks once and first."""
        said = [text for role, text in conversation.messages if role == "system"]
        turns = [message for message in conversation.messages if message[0] != "system"]
        parts = [self.start]
        if self.place is Place.OWN:
            parts.append(self.system(said[0]) if said else self.opening)
        last = len(turns) - 1
        for number, (role, text) in enumerate(turns):
            if role == "assistant":
                parts.append(self.assistant(text))
                continue
            before = self.user.before if number or self.first is None else self.first
            if said and self.place in (Place.FIRST, Place.REFUSED) and not number:
                before = self.system(said[0])
            elif said and self.place is Place.LAST and number == last:
                before += self.system(said[0])
            parts.append(f"{before}{text}{self.user.after}")
        return "".join([*parts, self.prompt if conversation.speaks else ""])


#: What the probes say: words that no template has, and that no trimming or casing of theirs leaves the same.
_SYSTEM: Final = "Qzs0 Rule"
_LONG: Final[tuple[Message, ...]] = (
    ("user", "Qzu1 One"),
    ("assistant", "Qza1 Two"),
    ("user", "Qzu2 Three"),
    ("assistant", "Qza2 Four"),
    ("user", "Qzu3 Five"),
)
#: From these the texts are taken: without and with what the system says, and how a turn of each ends.
_MEASURED: Final = (
    Conversation(_LONG),
    Conversation((("system", _SYSTEM), *_LONG)),
    Conversation(_LONG[:1], speaks=False),
    Conversation(_LONG[:2], speaks=False),
)
_ODD: Final = "Zeile 1\n\n  {{ \"2\" }} <b> & 'x' äöü 語 [y] #"
#: These must come out as the texts say.
_CHECKED: Final[tuple[tuple[Message, ...], ...]] = (
    (("user", "Hello"),),
    (("user", _ODD), ("assistant", _ODD + "!"), ("user", "and?")),
    tuple((("user", "assistant")[number % 2], f"turn {number}") for number in range(9)),
)


def turns_of(template: str, bos: str, eos: str, *, adds_bos: bool) -> Turns:
    """The texts of a Jinja template; raises `Unrenderable` with the reason where it has no such.

    bos, eos: the tokens. adds_bos: whether llama.cpp puts the first before every text, so that a template must not.
    """
    told = (("system", "Be brief.\n1. " + _ODD + " ."),)
    checks = [Conversation((*system, *one)) for one in _CHECKED for system in ((), told)]
    answers = rendered(template, {"bos_token": bos, "eos_token": eos}, [*_MEASURED, *checks])
    lead = bos if adds_bos else ""
    said = [answer.removeprefix(lead) if isinstance(answer, str) else answer for answer in answers]
    plain, system, of_user, of_assistant = said[: len(_MEASURED)]
    found = _measured(_needed(plain), system, _end(of_user, _LONG[0][1]), _end(of_assistant, _LONG[1][1]), eos)
    for conversation, answer in zip(checks, said[len(_MEASURED) :], strict=True):
        if found.place is Place.REFUSED and conversation.messages[0][0] == "system":
            continue
        if found.text(conversation) != _needed(answer):
            raise Unrenderable("what it writes of a text depends on more than whose it is")
    return found


def _needed(answer: str | Unrenderable) -> str:
    if isinstance(answer, Unrenderable):
        raise answer
    return answer


def _end(answer: str | Unrenderable, last: str) -> str:
    """What stands behind the last text; nothing where that is not known."""
    return answer.rpartition(last)[2] if isinstance(answer, str) and last in answer else ""


def _between(text: str, contents: Iterable[str]) -> list[str]:
    """What stands before, between and behind the contents; each must be there once, in this order."""
    pieces = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            raise Unrenderable("it does not write every text once, and as it is")
        pieces.append(before)
    return [*pieces, text]


def _measured(plain: str, system: str | Unrenderable, user_end: str, assistant_end: str, eos: str) -> Turns:
    contents = [text for _, text in _LONG]
    opening, to_assistant, to_user, *others, end = _between(plain, contents)
    if others != [to_assistant, to_user]:
        raise Unrenderable("its turns differ by their place")
    after_user = _shared(user_end, (to_assistant, end), eos)
    after_assistant = _shared(assistant_end, (to_user,), eos)
    user = Around(to_user.removeprefix(after_assistant), after_user)
    assistant = Around(to_assistant.removeprefix(after_user), after_assistant)
    prompt = end.removeprefix(after_user)
    if isinstance(system, Unrenderable):
        together = Around(opening, "\n\n")  # as templates do that have a place for it in the user's turn
        return _opened(Turns("", "", Place.REFUSED, together, user, assistant, prompt), opening)
    between = _pieces_with_system(system, contents)
    if between is None:
        base = Turns("", "", Place.LAST, Around("", ""), user, assistant, prompt)
        return _in_last(base, opening, _between(system, [*contents[:-1], _SYSTEM, contents[-1]]), to_user)
    head, tail, *rest = between
    if rest != [to_assistant, to_user, to_assistant, to_user, end]:
        raise Unrenderable("what the system says changes other turns")
    base = Turns("", "", Place.FIRST, Around(head, tail), user, assistant, prompt)
    if user.before and tail.endswith(user.before) and opening.endswith(user.before):
        return _in_own(base, opening.removesuffix(user.before), head, tail.removesuffix(user.before))
    return _opened(base, opening)


def _shared(end: str, followed: Sequence[str], eos: str) -> str:
    """What ends a turn: what stands behind it at the end of a text, if that is also there when others follow.

    Some templates end a text with the token for that, besides.
    """
    for one in (end, end.removesuffix(eos) if eos else end):
        if all(text.startswith(one) for text in followed):
            return one
    return ""


def _pieces_with_system(text: str, contents: list[str]) -> list[str] | None:
    """The pieces where what the system says stands before all else; None where it stands before the last text."""
    place, first = text.find(_SYSTEM), text.find(contents[0])
    if place < 0:
        raise Unrenderable("it leaves out what the system says")
    return _between(text, [_SYSTEM, *contents]) if place < first else None


def _in_own(base: Turns, opening: str, head: str, tail: str) -> Turns:
    """A turn of its own for what the system says. opening: what stands in its place where it says nothing."""
    default = _inside(opening, head, tail)
    if default:
        return Turns("", opening, Place.OWN, Around(head, tail), base.user, base.assistant, base.prompt, None, default)
    start = opening if head.startswith(opening) else ""
    around = Around(head.removeprefix(start), tail)
    return Turns(start, opening.removeprefix(start), Place.OWN, around, base.user, base.assistant, base.prompt)


def _in_last(base: Turns, opening: str, pieces: list[str], to_user: str) -> Turns:
    *_, before, between, _end_of_text = pieces
    if not before.startswith(to_user) or pieces[0] != opening:
        raise Unrenderable("what the system says changes other turns")
    around = Around(before.removeprefix(to_user), between)
    return _opened(Turns("", "", Place.LAST, around, base.user, base.assistant, base.prompt), opening)


def _opened(base: Turns, opening: str) -> Turns:
    """With what stands before the first text of the user."""
    first = None if opening == base.user.before else opening
    default = _inside(opening, base.system.before, base.system.after) if base.place is Place.FIRST else ""
    return Turns("", "", base.place, base.system, base.user, base.assistant, base.prompt, first, default)


def _inside(text: str, head: str, tail: str) -> str:
    """What stands between head and tail; nothing where they are not there."""
    fits = len(text) > len(head) + len(tail) and text.startswith(head) and text.endswith(tail)
    return text[len(head) : len(text) - len(tail)] if fits else ""
