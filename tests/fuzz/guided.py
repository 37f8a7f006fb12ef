"""The campaign's targets driven by coverage: `python -m tests.fuzz.guided --only TARGET -runs=100000`.

The numbered cases of `campaign.py` are drawn blindly; here PyPI's atheris changes the bytes that a case's choices are
drawn from, and keeps those that reach a new branch of requant. A defect ends the run with its bytes in a file
`crash-...`; that file, named as the last argument, runs it once more. Options that begin with one dash are libFuzzer's.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from random import Random

from requant.errors import Error


class Drawn(Random):
    """Choices read from bytes, one after the other; where they end, those of a generator seeded with them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data, self._at = data, 0

    def getrandbits(self, k: int, /) -> int:
        """`k` bits: of the next bytes."""
        count = (k + 7) // 8
        piece = self._data[self._at : self._at + count]
        self._at += count
        return int.from_bytes(piece, "little") & ((1 << k) - 1) if len(piece) == count else super().getrandbits(k)

    def random(self) -> float:
        """In [0, 1): two bytes of the data, which is as fine as any choice of `mutations.py`."""
        return self.getrandbits(16) / (1 << 16)


def tried(case: bytes, name: str, folder: Path) -> Error | None:
    """The case of target `name` that the bytes choose; what it raised on purpose. Anything else comes out."""
    from tests.fuzz import campaign

    return campaign.attempt(name, Drawn(case), folder)


def main() -> None:
    """Fuzzes until a defect, or as long as libFuzzer's options say."""
    import atheris

    with atheris.instrument_imports(include=["requant"]):
        from tests.fuzz import campaign

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", required=True, choices=list(campaign.TARGETS), help="the target", metavar="TARGET")
    asked, of_libfuzzer = parser.parse_known_args()
    warnings.simplefilter("error")
    with campaign.bounded(), campaign.folder_in_memory() as folder:
        atheris.Setup([sys.argv[0], *of_libfuzzer], lambda case: tried(case, asked.only, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
