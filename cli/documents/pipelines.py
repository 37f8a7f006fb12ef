"""What `run` prints."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from requant.cli.documents.plans import Planned
from requant.cli.documents.shared import Document


class StageDocument(TypedDict):
    """A stage of a pipeline."""

    stage: Annotated[str, "merge, student, prune, calibrate, quantize or check"]
    options: Annotated[dict[str, Any], "as the recipe has them, inputs filled in; one word is under the key ''"]


class PipelineDocument(Document):
    """`pipeline`: what `run --dry-run --json` prints."""

    stages: Annotated[list[StageDocument], "in order"]
    told: Annotated[list[str], "what the stages have decided, in words"]
    pending: Annotated[list[str], "files of statistics that are yet to be measured; types are chosen as with them"]
    reused: Annotated[list[str], "files of statistics that are there already"]
    destination: Annotated[str, "where it would be written"]
    plan: Annotated[Planned, "what would write it"]


class HashedFile(TypedDict):
    """A file that was read or written."""

    file: Annotated[str, "its path; of the output, its name"]
    bytes: Annotated[int, "its size"]
    sha256: Annotated[str, "of all of it"]


class PipelineReceiptDocument(Document):
    """`pipeline receipt`: what `run --json` prints, and what lies in OUTPUT.receipt.json."""

    requant: Annotated[str, "the version"]
    address: Annotated[str, "SHA-256 of everything that decides on the output"]
    expected_kl: NotRequired[Annotated[float, "as in `plan`"]]
    recipe: Annotated[str, "the file, as it was read"]
    settings: Annotated[dict[str, str], "the value of each of its inputs"]
    inputs: Annotated[list[HashedFile], "every file that was read"]
    stages: Annotated[list[StageDocument], "in order"]
    outputs: Annotated[list[HashedFile], "every file that was written"]
    check: NotRequired[Annotated[dict[str, Any], "with a stage `check`: as in `check`, without times"]]
    reused: Annotated[list[str], "files of statistics that were there already; not in the file"]
