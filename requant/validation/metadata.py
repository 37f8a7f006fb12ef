"""Metadata of a GGUF against its tensors."""

from __future__ import annotations

from collections import Counter
from math import prod

from requant.agreement import general
from requant.encodings import Dense
from requant.file_types import GUESSED, TITLES, title
from requant.ir import Checkpoint, Tensor
from requant.printable import LONGEST_MESSAGE, printable
from requant.recipes import RECIPES
from requant.validation.findings import Report

_FILE_TYPE = "general.file_type"


def check_metadata(source: Checkpoint[Tensor], report: Report) -> None:
    """Look at what keys and tensors say of each other."""
    for one in general(source):
        report.add("agreement", printable(one.message, LONGEST_MESSAGE))
    _check_file_type(source, report)
    report.checked.append("metadata")


def _check_file_type(source: Checkpoint[Tensor], report: Report) -> None:
    """Whether `general.file_type` is a claim that the matrices bear out.

    Recipes are mixes, and a type that does not fit a tensor's rows has a substitute: a claim is only false where it is
    of plain numbers and most weights are not, or the other way round.
    """
    typed = source.metadata.get(_FILE_TYPE)
    if typed is None or not isinstance(typed.value, int):
        return
    number = typed.value & ~GUESSED
    if number not in TITLES:
        report.add("file-type", f"{_FILE_TYPE} is {typed.value}, which is no type of llama.cpp's")
        return
    weights: Counter[str] = Counter()
    for tensor in source.tensors:
        if len(tensor.shape) > 1:
            weights[tensor.encoding.label] += prod(tensor.shape)
    recipe = next((one for one in RECIPES.values() if one.file_type == number), None)
    if recipe is None or recipe.main is None or not weights:
        return
    most, _ = weights.most_common(1)[0]
    plain = {"F32", "F16", "BF16", "F64"}
    if isinstance(recipe.main, Dense) != (most in plain) or (most in plain and most != recipe.main.label):
        report.add("file-type", f"{_FILE_TYPE} is {typed.value} ({title(typed.value)}); most weights are {most}")
