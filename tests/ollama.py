"""Ollama's side, naively: how it reads a Modelfile, and what it makes of a conversation (ollama fb30760)."""

from __future__ import annotations

import re

#: parser/parser.go, isValidCommand.
COMMANDS = frozenset(
    (
        "from",
        "license",
        "template",
        "system",
        "adapter",
        "draft",
        "renderer",
        "parser",
        "parameter",
        "message",
        "requires",
    )
)
#: api/types.go, Options and Runner: those that are whole numbers, and those that are not.
INTS = frozenset(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu"))
FLOATS = frozenset(("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty"))


def commands(text):
    """[(command or parameter, value)], as ParseFile finds them: one character after the other."""
    found, state, buffer, name = [], "nil", "", ""
    for char in text:
        newline, space = char in "\r\n", char in " \t"
        kept = char
        if state == "nil":
            following = "comment" if char == "#" else "nil" if newline or space else "name"
            kept = char if following == "name" else ""
        elif state == "comment":
            following, kept = ("nil" if newline else "comment"), ""
        elif state in ("name", "parameter"):
            if space:
                following, kept = "value", ""
            else:
                assert re.match("[a-zA-Z]" if state == "name" else "[a-zA-Z0-9_]", char), (state, char)
                following = state
        else:
            following = "nil" if newline or space else "value"
        if following != state:
            if state == "name":
                assert buffer.lower() in COMMANDS, buffer
                name = buffer.lower()
                following = "parameter" if name == "parameter" else following
            elif state == "parameter":
                name = buffer
            elif state == "value":
                value = unquoted(buffer.strip())
                if value is None or space:
                    buffer += char
                    continue
                found.append((name, value))
            buffer, state = "", following
        buffer += kept if kept.isprintable() else ""
    assert state in ("nil", "comment")
    for one, value in found:
        if one in INTS:
            int(value)
        elif one in FLOATS:
            float(value)
        else:
            assert one in COMMANDS | {"stop"}, one
    assert any(one == "from" for one, _ in found)
    return found


def unquoted(text):
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            return text[len(quotes) : -len(quotes)] if len(text) >= 2 * len(quotes) and text.endswith(quotes) else None
    return text


def executed(template, messages):
    """What Go's text/template prints, for the few constructs that are used; anything else is an error."""
    parts = re.split(r"(\{\{ (?:\"(?:\\.|[^\"\\])*\"|[^\"{}])*(?:\"[^\"{}]*\")?[^\"{}]* \}\})", template)
    assert all("{{" not in part for part in parts[::2]), "what is no action"
    tree, rest = parsed([part for part in parts if part])
    assert not rest
    system = "\n\n".join(text for role, text in messages if role == "system")
    variables = {"$.System": system}
    return "".join(walked(tree, variables, [{"Role": role, "Content": text} for role, text in messages], None))


def parsed(parts):
    """A list of texts, of actions, and of (word, [(condition, list)]); and what follows the `end` of it."""
    tree = []
    while parts:
        part, parts = parts[0], parts[1:]
        if not part.startswith("{{ "):
            tree.append(("text", part))
            continue
        said = part[3:-3]
        if said == "end" or said.startswith("else"):
            return tree, [part, *parts]
        if not said.startswith(("if ", "range ")):
            tree.append(("action", said))
            continue
        word, _, condition = said.partition(" ")
        branches = []
        while True:
            inner, parts = parsed(parts)
            branches.append((condition, inner))
            closing, parts = parts[0][3:-3], parts[1:]
            if closing == "end":
                break
            condition = closing.removeprefix("else").strip().removeprefix("if ") or "true"
        tree.append((word, branches))
    return tree, parts


def walked(tree, variables, messages, current):
    for kind, said in tree:
        if kind == "text":
            yield said
        elif kind == "range":
            ((over, inner),) = said
            assert over in (".Messages", "$i, $_ := .Messages")
            for number, message in enumerate(messages):
                variables["$i"] = len(messages) - number
                yield from walked(inner, variables, messages, message)
        elif kind == "if":
            for condition, inner in said:
                if evaluated(condition, variables, current):
                    yield from walked(inner, variables, messages, current)
                    break
        elif match := re.fullmatch(r"(\$\w+) :?= (.*)", said):
            variables[match[1]] = evaluated(match[2], variables, current)
        else:
            yield evaluated(said, variables, current)


def evaluated(said, variables, current):
    if said in ("true", "false"):
        return said == "true"
    if said in variables:
        return variables[said]
    if said == ".System":
        assert current is None
        return variables["$.System"]
    if said == ".Content":
        return current["Content"]
    if said == "eq (len (slice $.Messages $i)) 1":
        return variables["$i"] == 1
    if match := re.fullmatch(r'eq \.Role "(\w+)"', said):
        return current["Role"] == match[1]
    if match := re.fullmatch(r"not (\S+)", said):
        return not evaluated(match[1], variables, current)
    if match := re.fullmatch(r"and (\S+) (\S+)", said):
        return evaluated(match[1], variables, current) and evaluated(match[2], variables, current)
    assert re.fullmatch(r'"(\\.|[^"\\])*"', said), said
    return re.sub(r"\\(u....|U.{8}|.)", lambda m: chr(int(m[1][1:], 16)) if m[1][0] in "uU" else m[1], said[1:-1])


#: Reads [[template, [[role, text], ...]], ...] and prints what each comes to, with the template's own library.
GO = """package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var cases []struct {
		Template string
		Messages []*message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	said := []string{}
	for _, one := range cases {
		var system []string
		for _, m := range one.Messages {
			if m.Role == "system" {
				system = append(system, m.Content)
			}
		}
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		var out bytes.Buffer
		data := map[string]any{"System": strings.Join(system, "\\n\\n"), "Messages": one.Messages, "Response": ""}
		if err := parsed.Execute(&out, data); err != nil {
			panic(err)
		}
		said = append(said, out.String())
	}
	json.NewEncoder(os.Stdout).Encode(said)
}
"""
