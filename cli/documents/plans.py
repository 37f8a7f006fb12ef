"""`--dry-run --json`, and the receipts of what was written."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from requant.cli.documents.shared import Document, Failure, Lost, OutputFile, PassDone, Real

StepDocument = TypedDict(  # a class cannot have a field of the name `from`
    "StepDocument",
    {
        "from": Annotated[list[str], "stored tensors that are read"],
        "to": Annotated[str, "the tensor that is written"],
        "shape": Annotated[list[int], "of what is written, slowest dimension first"],
        "from_types": Annotated[list[str], "how the values are stored now, each type once"],
        "to_type": Annotated[str, "how they will be stored"],
        "bytes": Annotated[int, "what they will take"],
        "fidelity": Annotated[Literal["copy", "repack", "round"], "same bytes, same values, or rounded"],
        "keeps_codes": Annotated[bool, "whether codes and scales are carried over, and only zeros or scales rounded"],
        "rounds_twice": Annotated[bool, "whether values are rounded that a quantizer has rounded before"],
        "values": Annotated[str, "what the values are, as an expression over stored tensors"],
        "importance": Annotated[bool, "whether an importance matrix is heeded"],
        "feedback": Annotated[bool, "whether columns make up for the errors of those before them"],
        "smoothed": Annotated[bool, "whether columns are multiplied by what divides their inputs elsewhere"],
    },
)


class FeedbackDone(TypedDict):
    """How weights are rounded with error feedback (GPTQ)."""

    damping: Annotated[float, "what was added to the diagonal of each Hessian, as a part of its mean"]
    act_order: Annotated[Literal["none", "groups", "static"], "as in the option"]
    scales: Annotated[Literal["mse", "minmax"], "as in the option; of integers in groups"]
    tokens: Annotated[int, "that were read for the Hessians"]
    texts: Annotated[list[str], "SHA-256 of the tokens of each calibration"]
    tensors: Annotated[int, "that are rounded so"]


class Planned(TypedDict):
    """A model that would be written."""

    files: Annotated[list[OutputFile], "what would be written, the README.md of `--card` too"]
    bytes_read: Annotated[int, "bytes of tensors that would be read"]
    bytes_written: Annotated[int, "bytes of all files that would be written"]
    parameters: Annotated[int, "numbers in all tensors of the output"]
    bits_per_weight: Annotated[float, "stored bits of one of them, scales and all else included"]
    expected_kl: NotRequired[Annotated[float, "with a target and gradients: predicted KL divergence, nats per token"]]
    fidelity: Annotated[dict[str, int], "copy, repack, round -> how many tensors"]
    removed: Annotated[list[str], "files of the model that is replaced, which would be removed; named as in `files`"]
    losses: Annotated[list[Lost], "all of them"]
    hints: Annotated[list[str], "recipes that fit the model better than the one asked for, and how much of it"]
    steps: Annotated[list[StepDocument], "one for each tensor, in the order of the output"]
    peak_bytes: Annotated[int, "bound on the buffers with these threads"]
    feedback: NotRequired[Annotated[FeedbackDone, "with error feedback: how"]]
    smoothed_tensors: NotRequired[Annotated[int, "with `--smooth`: tensors whose columns are multiplied"]]
    passes: NotRequired[Annotated[list[PassDone], "with `--explain`: how it was planned"]]
    error: NotRequired[Annotated[Failure, "with `--fail-on-loss`: why the plan is refused"]]


class PlanDocument(Document, Planned):
    """`plan`: what `--dry-run --json` prints."""


class RecipePlan(Planned):
    """What one of several recipes comes to."""

    recipe: Annotated[str, "in capitals, as its destination has it"]
    destination: Annotated[str, "where it would be written"]


class PlansDocument(Document):
    """`plans`: the same of several recipes (`--to Q4_K_M,Q8_0`)."""

    plans: Annotated[list[RecipePlan], "one for each recipe"]
    bytes_read: Annotated[int, "bytes of tensors that would be read, in one pass for all of them"]
    bytes_written: Annotated[int, "bytes of all files that would be written"]
    peak_bytes: Annotated[int, "bound on the buffers with these threads"]
    error: NotRequired[Annotated[Failure, "with `--fail-on-loss`: why the plans are refused"]]


class Fetched(TypedDict):
    """What came from servers."""

    bytes: Annotated[int, "of files with weights, headers included"]
    files: Annotated[int, "how many such files"]
    files_checked: Annotated[int, "those whose SHA-256 is the one that the Hub says"]
    repeated_requests: Annotated[int, "requests that were made once more, after an answer that failed"]


class Cluster(TypedDict):
    """Who did the work."""

    workers: Annotated[int, "when it began"]
    tasks: Annotated[int, "that were handed out"]


class Written(TypedDict):
    """A model that was written."""

    files: Annotated[list[OutputFile], "what was written, the README.md of `--card` too"]
    seconds: Annotated[float, "the time it took"]
    bytes_read: Annotated[int, "bytes of tensors that were read"]
    bytes_written: Annotated[int, "bytes of all files"]
    relative_errors: Annotated[dict[str, Real], "tensor -> root of squared error over squared values, where measured"]
    replaced_values: Annotated[dict[str, int], "tensor -> how many of its values `--replace-nan` has replaced"]
    resumed_bytes: Annotated[int, "with `--resume`: bytes of the files that were finished before"]
    fetched: NotRequired[Annotated[Fetched, "of a model that is on a server"]]
    cluster: NotRequired[Annotated[Cluster, "with `--dask`"]]
    parameters: Annotated[int, "as in `plan`"]
    bits_per_weight: Annotated[float, "as in `plan`"]
    expected_kl: NotRequired[Annotated[float, "as in `plan`"]]
    removed: Annotated[list[str], "files of the model that was replaced, which were removed; named as in `files`"]
    losses: Annotated[list[Lost], "all of them"]
    hints: Annotated[list[str], "recipes that fit the model better than the one asked for, and how much of it"]
    steps: NotRequired[Annotated[list[StepDocument], "by `requantize`: as in `plan`"]]
    feedback: NotRequired[Annotated[FeedbackDone, "with error feedback: how"]]
    smoothed_tensors: NotRequired[Annotated[int, "with `--smooth`: tensors whose columns are multiplied"]]
    passes: NotRequired[Annotated[list[PassDone], "with `--explain`: how it was planned"]]


class ReceiptDocument(Document, Written):
    """`receipt`: what a command that has written prints with `--json`."""


class RecipeReceipt(Written):
    """What was done for one of several recipes; the time and what was read are those of all."""

    recipe: Annotated[str, "in capitals, as its destination has it"]
    destination: Annotated[str, "where it was written"]


class ReceiptsDocument(Document):
    """`receipts`: the same of several recipes."""

    receipts: Annotated[list[RecipeReceipt], "one for each recipe"]
    seconds: Annotated[float, "the time that all took"]
    bytes_read: Annotated[int, "bytes of tensors that were read"]
    bytes_written: Annotated[int, "bytes of all files"]
