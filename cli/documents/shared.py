"""What several commands print: the envelope, errors, files, what is lost."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

#: What JSON has no number for is a word.
Real = float | Literal["nan", "inf", "-inf"]


class Document(TypedDict):
    """Every document."""

    schema: Annotated[Literal[2], "version of these shapes"]
    command: Annotated[str, "the command that was given"]
    document: Annotated[str, "which of the shapes this is"]


class Failure(TypedDict):
    """Why a command ended with an exit code that is not 0; standard error has it in words, too."""

    kind: Annotated[str, "FormatError, UnsupportedError, PlanError, VerifyError, UsageError, OSError, Interrupted, ..."]
    message: Annotated[str, "what is wrong, naming file, tensor and byte"]
    hint: Annotated[str, "the next move; empty where none is known"]
    exit_code: Annotated[int, "as the process ends"]


class ErrorDocument(Document):
    """`error`: what any command prints in place of its own document when it fails."""

    error: Annotated[Failure, "why"]


class OutputFile(TypedDict):
    """A file of the output."""

    name: Annotated[str, "relative to the destination, or to its folder; a Modelfile of `--ollama` is one, too"]
    bytes: Annotated[int, "its size"]


class Lost(TypedDict):
    """One thing that is not in the output as it was, or as it was asked for."""

    kind: Annotated[str, "such as `requantized` or `tensor dropped`"]
    subject: Annotated[str, "the tensor, key or file"]
    detail: Annotated[str, "what happens to it, and why"]
    bytes: Annotated[int, "what a tensor that is dropped takes in the source, else 0"]


class PassDone(TypedDict):
    """One pass of planning (see passes.md)."""

    name: Annotated[str, "of the pass"]
    does: Annotated[str, "what it is for"]
    did: Annotated[dict[str, int], "what it did -> how many times; what it did not do is left out"]
    types: Annotated[dict[str, int], "types it has chosen -> for how many tensors"]
