"""What was found: one line for each thing that breaks a rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from requant.errors import Error, UnsupportedError
from requant.ir import Json
from requant.validation.rules import RULES, Severity

#: Findings of one rule that are kept; the rest is counted.
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks a rule. message: what, naming file, tensor or key. hint: the next move, if one is known."""

    rule: str
    message: str
    hint: str = ""

    @property
    def severity(self) -> Severity:
        """As the rule has it."""
        return RULES[self.rule].severity

    def to_json(self) -> Json:
        """As printed by `--json`."""
        rule = RULES[self.rule]
        return {
            "rule": self.rule,
            "severity": rule.severity.value,
            "message": self.message,
            "hint": self.hint,
            "reason": f"{rule.says}: {rule.reason}",
        }


@dataclass(slots=True)
class Report:
    """All findings, in the order in which they were made.

    checked: whose rules were looked at. unchecked: what could not be, and why: a model without findings is only as good
    as what was looked at. more: by rule, how many findings beyond `MOST` there were.
    """

    path: Path
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)

    def add(self, rule: str, message: str, hint: str = "") -> None:
        """Note that a rule is broken."""
        assert rule in RULES, rule
        if sum(finding.rule == rule for finding in self.findings[-MOST:]) == MOST:
            self.more[rule] = self.more.get(rule, 0) + 1
        else:
            self.findings.append(Finding(rule, message, hint))

    def object(self, rule: str, error: Error) -> None:
        """An `Objection` of a reader."""
        self.add(rule, self.without_path(str(error)), error.hint)

    @contextmanager
    def noting(self, rule: str, what: str) -> Iterator[None]:
        """Errors within break a rule; what is only not supported is told as not looked at."""
        try:
            yield
        except UnsupportedError as error:
            self.unchecked.append(f"{what}: {self.without_path(str(error))}")
        except Error as error:
            self.object(rule, error)

    @contextmanager
    def noting_all(self, rule: str, path: Path) -> Iterator[None]:
        """As `noting`, where a file that is not supported is broken to whoever would load it."""
        try:
            yield
        except Error as error:
            self.object(rule, error)

    def without_path(self, message: str) -> str:
        """A message that does not begin with the name of what is looked at, which stands above it."""
        return message.removeprefix(f"{self.path}: ")

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        told = sum(finding.severity is severity for finding in self.findings)
        return told + sum(more for rule, more in self.more.items() if RULES[rule].severity is severity)

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "path": str(self.path),
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "findings": [finding.to_json() for finding in self.findings],
            "checked": list(self.checked),
            "unchecked": list(self.unchecked),
        }
