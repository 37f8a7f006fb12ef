"""`diff --json` and `validate --json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from requant.cli.documents.inspecting import Share
from requant.cli.documents.shared import Document, Real


class DiffSide(TypedDict):
    """One of two models that are compared."""

    path: Annotated[str, "as given, or in the cache"]
    format: Annotated[str, "as in `inspection`"]
    naming: Annotated[Literal["hf", "ggml"], "as in `inspection`"]
    architecture: Annotated[str, "as in `inspection`"]
    family: Annotated[str | None, "model type of the family whose table it is read by; null where it is of none"]
    tensors: Annotated[int, "how many are stored"]
    parameters: Annotated[int, "numbers in all tensors"]
    tensor_bytes: Annotated[int, "stored bytes of all tensors"]
    file_bytes: Annotated[int, "bytes of their files"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    types: Annotated[dict[str, Share], "type -> its tensors"]


class DiffSetting(TypedDict):
    """A key that is not the same on both sides."""

    key: Annotated[str, "of GGUF or of config.json, whichever `names` says; inner keys of config.json with dots"]
    about: Annotated[
        str, "model, general, tokenizer, storage (how tensors are stored) or file (who wrote it: no difference)"
    ]
    status: Annotated[
        Literal["differs", "only a", "only b", "only a can hold it", "only b can hold it"],
        "the last two are no difference: the other format has no place for it",
    ]
    a: Annotated[Any, "its value; null where there is none; of a list of more than 4,096 items their number"]
    b: Annotated[Any, "the same of B"]
    detail: Annotated[str, "why; empty where that needs no word"]


class DiffToken(TypedDict):
    """A token that has not the same id on both sides."""

    text: Annotated[str, "the token"]
    a: Annotated[int | None, "its id in A; null where it is not there"]
    b: Annotated[int | None, "its id in B"]


class DiffTokenType(TypedDict):
    """A token of the same id that is of another type, such as control or normal."""

    text: Annotated[str, "the token"]
    a: Annotated[str, "its type in A"]
    b: Annotated[str, "its type in B"]


class DiffTemplate(TypedDict):
    """A chat template that differs."""

    name: Annotated[str, "empty for the one that is used"]
    diff: Annotated[list[str], "lines as `diff -u` prints them"]


class DiffTokenizer(TypedDict):
    """Two tokenizers, compared as GGUF keeps them; of lists at most 1,000 items."""

    tokens_a: Annotated[int | None, "tokens, without those that fill up rows; null for no tokenizer, or if unread"]
    tokens_b: Annotated[int | None, "the same of B"]
    differing_tokens: Annotated[int, "how many have not the same id on both sides"]
    tokens: Annotated[list[DiffToken], "these, by their ids"]
    retyped: Annotated[list[DiffTokenType], "tokens of another type"]
    rescored: Annotated[int, "how many have another score"]
    merges_a: Annotated[int, "merges of byte pairs"]
    merges_b: Annotated[int, "the same of B"]
    merges_only_a: Annotated[list[str], "merges that B lacks"]
    merges_only_b: Annotated[list[str], "merges that A lacks"]
    merges_moved: Annotated[bool, "whether merges that both have come in another order"]
    settings: Annotated[list[DiffSetting], "ids of special tokens, the pre-tokenizer and the like"]
    templates: Annotated[list[DiffTemplate], "chat templates that differ"]
    lost: Annotated[list[str], "what of a folder's tokenizer has no place in a GGUF"]
    unread: Annotated[str, "why not everything was compared; empty where it was"]
    same_files: Annotated[bool, "whether all files are the same, so that nothing had to be read"]


class DiffStored(TypedDict):
    """How one side has a tensor."""

    shape: Annotated[list[int], "slowest dimension first, in the words of the comparison"]
    type: Annotated[str, "how it is stored; of several tensors each type once, with + between"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    bytes: Annotated[int, "stored bytes of its numbers"]
    values: Annotated[str, "what it is, as an expression over stored tensors"]


class DiffNumbers(TypedDict):
    """Numbers of A beside those of B; errors are B less A, over what is finite on both sides."""

    values: Annotated[int, "how many numbers each side has"]
    relative_error: Annotated[Real, "root of the squared error over the squares of A"]
    largest_error: Annotated[Real, "the largest size of a difference"]
    cosine: Annotated[Real, "of the angle between both"]
    snr_db: Annotated[Real, "squares of A over the squared error, in decibels; inf where nothing differs"]
    changed: Annotated[int, "values that are not equal; NaN is equal to NaN"]
    sign_flips: Annotated[int, "values of the other sign"]
    not_finite_a: Annotated[int, "values that are NaN or infinite in A alone"]
    not_finite_b: Annotated[int, "values that are NaN or infinite in B alone"]
    not_finite_both: Annotated[int, "values that are NaN or infinite in both"]


class DiffTensor(TypedDict):
    """A tensor of either model."""

    name: Annotated[str, "in the words of the comparison"]
    layer: Annotated[int | None, "the layer that it is of"]
    role: Annotated[str, "its name without the layer"]
    differs: Annotated[list[str], "`only a` or `only b`, or of `shape`, `type` and `values` those that do"]
    a: Annotated[DiffStored | None, "how A has it; null where it has not"]
    b: Annotated[DiffStored | None, "how B has it"]
    numbers: NotRequired[
        Annotated[DiffNumbers | None, "with `--values`; null where there is nothing to compare; of rows both have"]
    ]


class DiffLeftOut(TypedDict):
    """A tensor that the other format has no place for."""

    side: Annotated[Literal["a", "b"], "which model has it"]
    name: Annotated[str, "as it is stored"]
    reason: Annotated[str, "why it is left out"]
    bytes: Annotated[int, "stored bytes"]


class DiffFile(TypedDict):
    """A file beside the weights of two folders that is not the same."""

    name: Annotated[str, "relative to the folder"]
    status: Annotated[Literal["differs", "only a", "only b"], "how it differs"]


class DiffSums(TypedDict):
    """With `--values`: the numbers of several tensors together."""

    total: Annotated[DiffNumbers, "of all that were compared"]
    roles: Annotated[dict[str, DiffNumbers], "role -> its tensors, worst first"]
    layers: Annotated[dict[str, DiffNumbers], "number of a layer -> its tensors, worst first"]


class DiffDocument(Document):
    """`diff`: what `diff --json` prints; models that differ end in exit code 1."""

    equal: Annotated[bool, "whether nothing differs that both formats could hold"]
    names: Annotated[
        Literal["gguf", "hf", "stored"],
        "whose keys and names are used; `stored`: each model's own, with none in common",
    ]
    notes: Annotated[list[str], "what was strange, and what could not be compared, and why"]
    a: Annotated[DiffSide, "the first model"]
    b: Annotated[DiffSide, "the second"]
    settings: Annotated[list[DiffSetting], "keys that are not the same, tokenizers apart"]
    tokenizer: Annotated[DiffTokenizer, "what differs between tokenizers"]
    tensors: Annotated[list[DiffTensor], "those of both, whether they differ or not"]
    left_out: Annotated[list[DiffLeftOut], "tensors that the other format has no place for: no difference"]
    files: Annotated[list[DiffFile], "of two folders, what else lies in them and is not the same"]
    sums: NotRequired[Annotated[DiffSums, "with `--values`"]]


class FindingRow(TypedDict):
    """Something that breaks a rule."""

    rule: Annotated[str, "its name, as `validate --rules` lists it"]
    severity: Annotated[Literal["error", "warning"], "as the rule has it"]
    message: Annotated[str, "what is wrong, naming file, tensor or key"]
    hint: Annotated[str, "the next move; empty where none is known"]
    reason: Annotated[str, "what must hold, and what happens else"]


class ValidationDocument(Document):
    """`validation`: what `validate --json` prints; with errors, it ends in exit code 5."""

    path: Annotated[str, "what was looked at"]
    errors: Annotated[int, "how many there are"]
    warnings: Annotated[int, "how many there are"]
    findings: Annotated[list[FindingRow], "in the order of the files; of one rule 1,000 at most"]
    checked: Annotated[list[str], "what was looked at"]
    unchecked: Annotated[list[str], "what was not, and why"]


class RuleRow(TypedDict):
    """A rule of `validate`."""

    rule: Annotated[str, "its name"]
    severity: Annotated[Literal["error", "warning"], "an error ends in exit code 5, a warning with `--strict`"]
    about: Annotated[str, "what it is of"]
    says: Annotated[str, "what must hold"]
    reason: Annotated[str, "what happens else"]


class RulesDocument(Document):
    """`rules`: what `validate --rules --json` prints."""

    rules: Annotated[list[RuleRow], "all of them"]
