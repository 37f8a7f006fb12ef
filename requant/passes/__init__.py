"""How a plan is made: lists of passes, each pass a small frozen value.

A pass takes a `Translation` and gives one with more decided. The lists stand in `requant.operations`, one for each
direction. To add an operation: one file here with its pass, and one line in the lists it belongs to.
"""

from requant.passes.passing import Fact, Pass, made
from requant.passes.planned import planned

__all__ = ["Fact", "Pass", "made", "planned"]
