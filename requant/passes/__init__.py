"""How a plan is made: lists of passes, one list for each direction (`directions`), each pass a small frozen value.

A pass takes a `Translation` and gives one with more decided. To add an operation: one file with its pass, and one line
in the lists it belongs to.
"""

from requant.passes.passing import Fact, Pass, made

__all__ = ["Fact", "Pass", "made"]
