"""What `--json` prints: one document on standard output, whatever happens, in the shapes below.

docs/json.md is made from these classes, the texts included. Within one `requant.cli.saying.SCHEMA`, keys are added and
never taken away. No command imports this module: so many classes take a quarter of the time in which `--help` is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.cli.documents.comparing import DiffDocument, RulesDocument, ValidationDocument
from requant.cli.documents.inspecting import InspectionDocument, InspectionsDocument
from requant.cli.documents.measuring import CalibrationDocument, CheckDocument, FrontierDocument
from requant.cli.documents.pipelines import PipelineDocument, PipelineReceiptDocument
from requant.cli.documents.plans import PlanDocument, PlansDocument, ReceiptDocument, ReceiptsDocument
from requant.cli.documents.recommending import RecommendDocument
from requant.cli.documents.shared import ErrorDocument
from requant.cli.documents.tables import EditDocument, FamiliesDocument, HashDocument, TypesDocument

#: Name of a document -> its shape.
DOCUMENTS: Final[Mapping[str, type]] = {
    "plan": PlanDocument,
    "plans": PlansDocument,
    "edit": EditDocument,
    "receipt": ReceiptDocument,
    "receipts": ReceiptsDocument,
    "inspection": InspectionDocument,
    "inspections": InspectionsDocument,
    "check": CheckDocument,
    "calibration": CalibrationDocument,
    "frontier": FrontierDocument,
    "pipeline": PipelineDocument,
    "pipeline receipt": PipelineReceiptDocument,
    "types": TypesDocument,
    "families": FamiliesDocument,
    "hash": HashDocument,
    "diff": DiffDocument,
    "validation": ValidationDocument,
    "rules": RulesDocument,
    "recommend": RecommendDocument,
    "error": ErrorDocument,
}
