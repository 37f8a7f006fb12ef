"""The texts of a chat template as a template of Go's, as Ollama executes it.

Ollama gives a template that names `.Messages` the messages in order, those of the system among them, and `.System`:
what all of those say (ollama fb30760, template/template.go). Go's text/template trims nothing unless told to.
"""

from __future__ import annotations

from itertools import groupby

from requant.ollama.turns import Place, Turns


def literal(text: str) -> str:
    """Text that a Go template prints as it is, also where a Modelfile or Go would take it for something else.

    >>> literal('a{{b}}')
    'a{{ "{{" }}b}}'
    """
    runs = groupby(range(len(text)), lambda at: _is_bare(text[at]) and not text.startswith('"""', at))
    parts = ((bare, "".join(text[at] for at in run)) for bare, run in runs)
    return "".join(run if bare else f"{{{{ {_quoted(run)} }}}}" for bare, run in parts)


def _is_bare(char: str) -> bool:
    return char != "{" and (char in "\n\t" or char.isprintable())


def _quoted(text: str) -> str:
    """A string of Go's."""
    said = [_escape(char) for char in text]
    return f'"{"".join(said)}"'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"


def go_template(turns: Turns) -> str:
    """The template; it writes what `Turns.text` does.

    Where the system has a default, it is left to the Modelfile's SYSTEM, which Ollama makes the first message.
    """
    assistant = _said(literal(turns.assistant.before), literal(turns.assistant.after))
    start, prompt = literal(turns.start), literal(turns.prompt)
    role = '{{ else if eq .Role "assistant" }}' + assistant + "{{ end }}{{ end }}" + prompt
    before, after = literal(turns.user.before), literal(turns.user.after)
    user = '{{ if eq .Role "user" }}'
    if turns.place is Place.OWN:
        absent = "" if turns.default or not turns.opening else _unless_system(literal(turns.opening))
        system = _said(literal(turns.system.before), literal(turns.system.after))
        branch = '{{ if eq .Role "system" }}' + system + '{{ else if eq .Role "user" }}'
        return f"{start}{absent}{{{{ range .Messages }}}}{branch}{_said(before, after)}{role}"
    system = f"{literal(turns.system.before)}{{{{ $.System }}}}{literal(turns.system.after)}"
    first = before if turns.first is None else literal(turns.first)
    if turns.place is Place.LAST:
        last = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        held = before
        if turns.first is not None:
            last = "{{ $first := true }}" + last
            held = f"{{{{ if $first }}}}{first}{{{{ $first = false }}}}{{{{ else }}}}{before}{{{{ end }}}}"
        held += f"{{{{ if and $last $.System }}}}{system}{{{{ end }}}}"
        return f"{start}{last}{user}{_said(held, after)}{role}"
    opening = f"{{{{ if $.System }}}}{system}{{{{ else }}}}{first}{{{{ end }}}}{{{{ $first = false }}}}"
    held = f"{{{{ if $first }}}}{opening}{{{{ else }}}}{before}{{{{ end }}}}"
    return f"{start}{{{{ $first := true }}}}{{{{ range .Messages }}}}{user}{_said(held, after)}{role}"


def _said(before: str, after: str) -> str:
    return f"{before}{{{{ .Content }}}}{after}"


def _unless_system(text: str) -> str:
    return f"{{{{ if not .System }}}}{text}{{{{ end }}}}"
