"""Every method of merging, by the name a recipe calls it; a new one is one module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.merging.methods.arcee_fusion import ARCEE_FUSION
from requant.merging.methods.breadcrumbs import BREADCRUMBS
from requant.merging.methods.breadcrumbs_ties import BREADCRUMBS_TIES
from requant.merging.methods.dare_linear import DARE_LINEAR
from requant.merging.methods.dare_ties import DARE_TIES
from requant.merging.methods.della import DELLA
from requant.merging.methods.della_linear import DELLA_LINEAR
from requant.merging.methods.karcher import KARCHER
from requant.merging.methods.linear import LINEAR
from requant.merging.methods.method import Method
from requant.merging.methods.model_stock import MODEL_STOCK
from requant.merging.methods.multislerp import MULTISLERP
from requant.merging.methods.nearswap import NEARSWAP
from requant.merging.methods.nuslerp import NUSLERP
from requant.merging.methods.passthrough import PASSTHROUGH
from requant.merging.methods.ram import RAM, RAMPLUS_TL
from requant.merging.methods.sce import SCE
from requant.merging.methods.slerp import SLERP
from requant.merging.methods.task_arithmetic import TASK_ARITHMETIC
from requant.merging.methods.ties import TIES

METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        LINEAR,
        SLERP,
        NUSLERP,
        MULTISLERP,
        KARCHER,
        TASK_ARITHMETIC,
        TIES,
        DARE_LINEAR,
        DARE_TIES,
        DELLA,
        DELLA_LINEAR,
        BREADCRUMBS,
        BREADCRUMBS_TIES,
        SCE,
        MODEL_STOCK,
        NEARSWAP,
        ARCEE_FUSION,
        RAM,
        RAMPLUS_TL,
        PASSTHROUGH,
    )
}
