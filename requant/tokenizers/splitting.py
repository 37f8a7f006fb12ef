"""What a pre-tokenizer does to text, found out by running it.

`tokenizers` understands Oniguruma's regular expressions with Unicode properties, Python's `re` does not. But to tell
whether two pre-tokenizers do the same it is enough to run both on chosen texts, and over the few characters of these
texts every `\\p{L}`, `\\s` or `[^\\r\\n\\p{N}]` is a short list that `re` does understand. A tokenizer's own pattern
is matched with limited patience, by `requant.patterns`.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from requant.json_values import Item
from requant.patterns import Patience, PatternError, regular_expression
from requant.printable import printable
from requant.tokenizers.pre_tokenizers import GPT2, PRE_TOKENIZERS

_ASCII = "".join(map(chr, range(32, 127))) + "\t\n\r\x0b\x01"
_LETTERS = "éÉßǅʰдДعเกཀ中你好龜ひカ한ㄱㄅคαΩ"
_OTHERS = "\u0301ा²Ⅷ٣½。！—‘“”«»€🚀☁°±\u200d\ue000\u00a0\u3000\u2003"
_TEXTS = (
    "Hello, world! I'm sure he'll say it's they're we've I'd don't",
    "I'M SURE HE'LL SAY IT'S THEY'RE WE'VE I'D DON'T it'S you'Re",
    "3 33 333 3333 33333 333333 3333333 3.14 1,000,000 a1b22c333 ²Ⅷ٣½ x²",
    "  two   three    four\ttab\t\ttabs \n \n\n \n\n\n\r\n end  ",
    "\n\nnext\n\n\n line\r\n\r\n .\n ...\n\n...!!!\n/path/to/file\n//",
    "camelCase HTTPServer XMLHttpRequest snake_case kebab-case UPPER lower Éa éA ßD ǅx ʰy",
    "中你a ひカ한 ㄱㄅ เก ཀ龜 中 你123 你好。！—“a”",
    "é e\u0301 ाक \u0301\u0301a 🚀☁🚀 a🚀b €5 +5 -5 5% $5 <b> ~x~ `y` a|b ^ =",
    "(a) [b] {c} <d> \"e\" 'f' «g» :: ;; -- === /* x */ # @user \\n a.b.c !=",
    "a\u00a0b\u3000c\u2003 d\u200de\ue000f\x01g \u00a0 x",
    " leading\n trailing \n\tmixed \t \n",
    "1234567 12 1 0000000000 1.234,567 v2.0 3rd",
)

ALPHABET = "".join(sorted({*_ASCII, *_LETTERS, *_OTHERS, *"".join(_TEXTS)}))
_WHITE = frozenset(c for c in ALPHABET if c.isspace() and not "\x1c" <= c <= "\x1f")
#: Where the matches of a pattern lie in a text.
_Find = Callable[[str], Iterable[tuple[int, int]]]
_PROPERTIES = {"Han": "中你好龜", "Hiragana": "ひ", "Katakana": "カ", "Hangul": "한ㄱ", "Thai": "เกค", "Latin": "éÉßǅʰ"}
#: Patterns of llama.cpp's table, which are known to end.
_TRUSTED = frozenset(pattern for row in PRE_TOKENIZERS for pattern in row.splits)
#: Characters of a pattern whose classes have been written out.
_LONGEST = 1 << 18


@dataclass(frozen=True, slots=True)
class Split:
    """Cut at the matches of a regular expression; what becomes of them: HF's `behavior` and `invert`."""

    pattern: str
    behavior: str = "Isolated"
    invert: bool = False


class UnknownStep(Exception):
    """A step that cannot be run here; the text says which, to be followed by "is not understood"."""


@cache
def probes() -> tuple[str, ...]:
    """The texts on which pre-tokenizers are compared: written ones, and reproducible noise."""
    noise = random.Random(2024)
    kinds = [
        "aAbstdlmreTSDé",
        "0123456789",
        " ",
        "  ",
        "\n",
        "\r\n\t",
        ".,!?-/'\"",
        "'",
        "'",
        _ASCII,
        _LETTERS,
        _OTHERS,
    ]
    made = ("".join(noise.choice(noise.choice(kinds)) for _ in range(28)) for _ in range(150))
    return (*_TEXTS, *made)


def steps_of(item: Item) -> tuple[Split, ...]:
    """The cuts that a `pre_tokenizer` of tokenizer.json makes. Raises UnknownStep."""
    if item.value is None:
        return ()
    kind = item.get("type").string()
    if kind == "Sequence":
        parts = list(item.get("pretokenizers").items())
        steps = [step for part in parts for step in steps_of(part)]
        if any(part.get("type").value == "ByteLevel" for part in parts[:-1]):
            # after ByteLevel the text is bytes written as letters: only ASCII digits are digits still (Falcon)
            steps = [
                replace(step, pattern=step.pattern.replace(r"\p{N}", "[0-9]")) if step != Split(GPT2) else step
                for step in steps
            ]
        return tuple(steps)
    if kind == "ByteLevel":
        return (Split(GPT2),) if item.get("use_regex").flag(default=True) else ()
    if kind == "Digits":
        return (Split(r"\p{N}" if item.get("individual_digits").flag() else r"\p{N}+"),)
    if kind == "Punctuation":
        return (Split(r"[!-/:-@\[-`{-~\p{P}]", item.get("behavior").string("Isolated")),)
    if kind == "WhitespaceSplit":
        return (Split(r"\s+", "Removed"),)
    if kind == "Whitespace":
        return (Split(r"\w+|[^\w\s]+", "Removed", invert=True),)
    if kind == "Split":
        pattern = item.get("pattern")
        if "String" in pattern.object():
            text = re.escape(pattern.get("String").string())
        else:
            text = pattern.get("Regex").string()
        return (Split(text, item.get("behavior").string("Isolated"), item.get("invert").flag()),)
    raise UnknownStep(f"the pre-tokenizer {printable(kind)!r}")


def run(steps: tuple[Split, ...], text: str, patience: Patience) -> list[str]:
    """The pieces of `text` that are left, in order. Raises UnknownStep."""
    pieces = [text]
    for step in steps:
        find = _ours(step.pattern) if step.pattern in _TRUSTED else _theirs(step.pattern, patience)
        pieces = [part for piece in pieces for part in _cut(piece, step, find)]
    return pieces


def _cut(text: str, step: Split, find: _Find) -> Iterator[str]:
    """Matches and gaps of one piece, joined or dropped as the step says."""
    spans, at = [], 0
    for start, end in find(text):
        spans.append((text[at:start], False))
        spans.append((text[start:end], True))
        at = end
    spans.append((text[at:], False))
    marked = [(part, hit is not step.invert) for part, hit in spans if part]
    if step.behavior == "Isolated":
        yield from (part for part, _ in marked)
    elif step.behavior == "Removed":
        yield from (part for part, hit in marked if not hit)
    elif step.behavior in ("Contiguous", "MergedWithPrevious", "MergedWithNext"):
        yield from _joined(marked, step.behavior)
    else:
        raise UnknownStep(f"a Split with behavior {printable(step.behavior)!r}")


def _joined(marked: list[tuple[str, bool]], behavior: str) -> Iterator[str]:
    held, held_hit = "", False
    for part, hit in marked:
        if behavior == "Contiguous":
            join = held and hit == held_hit
        elif behavior == "MergedWithPrevious":
            join = held and hit and not held_hit
        else:
            join = held and held_hit and not hit
        if join:
            held += part
        else:
            if held:
                yield held
            held = part
        held_hit = hit
    if held:
        yield held


@cache
def _ours(pattern: str) -> _Find:
    """A pattern of the table."""
    compiled = re.compile(_translated(pattern), re.MULTILINE)
    return lambda text: (match.span() for match in compiled.finditer(text))


def _theirs(pattern: str, patience: Patience) -> _Find:
    """A pattern out of a tokenizer.json, matched as long as there is patience."""

    def find(text: str) -> Iterator[tuple[int, int]]:
        try:
            translated = _translated(pattern)
            return regular_expression(translated, patience, multiline=True, longest=_LONGEST).spans(text)
        except PatternError as error:
            why = error.why
        except _UnreadError as error:
            why = f"has {error}"
        except (ValueError, IndexError, OverflowError):
            why = "ends or counts where it cannot"
        raise UnknownStep(f"the regular expression {printable(pattern, 60)!r}, which {why},")

    return find


@lru_cache(1024)
def _translated(pattern: str) -> str:
    return _Translator(pattern).translate()


def _written(members: frozenset[str]) -> str:
    if not members:
        return "(?!)"
    return "[" + "".join(f"\\U{ord(c):08x}" for c in sorted(members)) + "]"


def _with_property(name: str) -> frozenset[str]:
    inverted, name = name.startswith("^"), name.lstrip("^")
    if name in _PROPERTIES:
        members = frozenset(_PROPERTIES[name])
        if name == "Latin":
            members |= frozenset(c for c in _ASCII if c.isalpha())
    elif name and ((len(name) == 1 and name in "LMNPSZC") or (len(name) == 2 and name[0] in "LMNPSZC")):
        members = frozenset(c for c in ALPHABET if unicodedata.category(c).startswith(name))
    else:
        raise _UnreadError(f"\\p{{{printable(name, 30)}}}")
    return frozenset(ALPHABET) - members if inverted else members


_SIMPLE = {
    "s": _WHITE,
    "d": _with_property("Nd"),
    "w": _with_property("L") | _with_property("M") | _with_property("N") | _with_property("Pc"),
    "h": frozenset("0123456789abcdefABCDEF"),
}
_W = _written(_SIMPLE["w"])
_ANCHORS = {
    "b": f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))",
    "B": f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))",
    "A": r"\A",
    "z": r"\Z",
    "Z": r"(?=\n?\Z)",
}
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "v": "\x0b", "f": "\f", "a": "\a", "e": "\x1b"}


#: A quantifier; braces with anything else inside stand for themselves.
_COUNT = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\}")


class _UnreadError(ValueError):
    """Something in a pattern that is not translated; the text says what."""


class _Translator:
    """Oniguruma to `re`, exact for texts over `ALPHABET`."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > 4096:
            raise _UnreadError("more than 4096 characters")
        self.pattern, self.at = pattern, 0

    def translate(self) -> str:
        out: list[str] = []
        opened: list[int] = []  # where the groups that are still open begin
        atom: int | None = None  # where what a quantifier would repeat begins
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if atom is not None and (count := _COUNT.match(self.pattern, self.at)):
                self._repeat(out, atom, count[0])
                continue
            if char == "(":
                opened.append(len(out))
            begins = opened.pop() if char == ")" and opened else len(out)
            if char == "[":
                out.append(_written(self._class()))
            elif char == "\\":
                out.append(self._escape())
            else:
                # what follows a parenthesis says what kind of group it is, and repeats nothing
                char = "(?" if self.pattern.startswith("(?", self.at) else char
                out.append(char)
                self.at += len(char)
            atom = None if char in ("(", "(?", "|") else begins
        return "".join(out)

    def _repeat(self, out: list[str], atom: int, count: str) -> None:
        """One quantifier and what makes it lazy or possessive; one more repeats the whole.

        In Oniguruma `{n,m}+` is no possessive quantifier but a repetition of a repetition, and so is `{n}?`.
        """
        self.at += len(count)
        following = self.pattern[self.at : self.at + 1]
        plain = count in ("*", "+", "?")
        if (following == "?" and (plain or "," in count)) or (following == "+" and plain):
            count, self.at = count + following, self.at + 1
        out.append(count)
        if _COUNT.match(self.pattern, self.at):
            out.insert(atom, "(?:")
            out.append(")")

    def _escape(self) -> str:
        start = self.at
        members = self._escaped_set()
        if members is not None:
            return _written(members)
        char = self._escaped_char()
        if char is not None:
            return re.escape(char)
        self.at = start + 2
        if self.pattern[start + 1] in _ANCHORS:
            return _ANCHORS[self.pattern[start + 1]]
        raise _UnreadError(printable(self.pattern[start : start + 2]))

    def _escaped_set(self) -> frozenset[str] | None:
        """`\\p{..}`, `\\s` and the like, or None (then nothing is consumed)."""
        letter = self.pattern[self.at + 1]
        if letter in "pP" and self.pattern[self.at + 2 : self.at + 3] == "{":
            end = self.pattern.index("}", self.at)
            members = _with_property(self.pattern[self.at + 3 : end])
            self.at = end + 1
            return members if letter == "p" else frozenset(ALPHABET) - members
        if letter.lower() in _SIMPLE:
            self.at += 2
            members = _SIMPLE[letter.lower()]
            return members if letter.islower() else frozenset(ALPHABET) - members
        return None

    def _escaped_char(self) -> str | None:
        letter = self.pattern[self.at + 1]
        if letter == "x" and self.pattern[self.at + 2 : self.at + 3] == "{":
            end = self.pattern.index("}", self.at)
            digits, self.at = self.pattern[self.at + 3 : end], end + 1
            return chr(int(digits, 16))
        for prefix, length in (("x", 2), ("u", 4)):
            if letter == prefix:
                digits = self.pattern[self.at + 2 : self.at + 2 + length]
                self.at += 2 + length
                return chr(int(digits, 16))
        if letter in _CONTROL or not letter.isalnum():
            self.at += 2
            return _CONTROL.get(letter, letter)
        return None

    def _class(self) -> frozenset[str]:
        """A bracket expression: ranges, properties, nested brackets and `&&`."""
        self.at += 1
        inverted = self.pattern[self.at] == "^"
        self.at += inverted
        members: frozenset[str] = frozenset()
        bounds: frozenset[str] | None = None  # what the left sides of && allow
        first = True
        while first or self.pattern[self.at] != "]":
            if self.pattern.startswith("&&", self.at):
                bounds = members if bounds is None else bounds & members
                members, self.at = frozenset(), self.at + 2
                continue
            members |= self._class_member()
            first = False
        self.at += 1
        members = members if bounds is None else bounds & members
        return frozenset(ALPHABET) - members if inverted else members

    def _class_member(self) -> frozenset[str]:
        if self.pattern[self.at] == "[":
            if self.pattern.startswith("[:", self.at):
                raise _UnreadError("a POSIX bracket")
            return self._class()
        if self.pattern[self.at] == "\\" and (members := self._escaped_set()) is not None:
            return members
        low = self._class_char()
        if self.pattern[self.at] == "-" and self.pattern[self.at + 1] != "]":
            self.at += 1
            high = self._class_char()
            return frozenset(c for c in ALPHABET if low <= c <= high)
        return frozenset(low)

    def _class_char(self) -> str:
        if self.pattern[self.at] == "\\":
            char = self._escaped_char()
            if char is None:
                raise _UnreadError(printable(self.pattern[self.at : self.at + 2]))
            return char
        self.at += 1
        return self.pattern[self.at - 1]
