"""Every recipe that a runtime loads, as a model would be in it: bytes, cache, bound on the speed, expected loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from requant.encodings import Dense
from requant.errors import Error, PlanError
from requant.formats import FORMATS
from requant.ir import Checkpoint, Json, Tensor
from requant.losses import LossKind
from requant.operations.cache import MICRO_BATCH, LayerCache, caches_of, metadata_of
from requant.operations.convert import LISTS, Request
from requant.operations.placed import Placed, place_of
from requant.operations.running import bytes_for_a_token, vocabulary_of
from requant.passes import Fact, Pass, made
from requant.plan import Translation, unchanged
from requant.recipes.measured import MEASURED, WITH_IMPORTANCE
from requant.recommending.runtimes import Room, Runtime

#: What a model is called that stays as it is.
AS_IT_IS: Final = "as it is"
#: Tokens; a context is looked for in steps of so many.
_STEP: Final = 256


@dataclass(frozen=True, slots=True)
class Offer:
    """A recipe, and what a model takes in it.

    nbytes: of all tensors. bits_per_weight: of them. cache: bytes of keys, values and states of all sequences. buffers:
    an estimate, the logits of one micro-batch. longest: tokens of context that fit, at most those that the model was
    trained with; 0 where none do. speed: tokens a second of one sequence, at most, with an empty cache. kl: expected,
    nats for each token; None where nobody has measured it. importance: whether an importance matrix is needed, or
    saves much.
    substituted: tensors that cannot be stored as the recipe says.
    """

    recipe: str
    nbytes: int
    bits_per_weight: float
    cache: int
    buffers: int
    longest: int
    speed: float
    kl: float | None
    importance: bool
    substituted: int

    @property
    def total(self) -> int:
        """Bytes to run it."""
        return self.nbytes + self.cache + self.buffers

    def to_json(self, room: Room) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "recipe": self.recipe,
            "weight_bytes": self.nbytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "cache_bytes": self.cache,
            "buffer_bytes_estimate": self.buffers,
            "total_bytes": self.total,
            "fits": self.total <= room.memory,
            "longest_context": self.longest,
            "tokens_per_second_at_most": round(self.speed, 3),
            "expected_kl": self.kl,
            "with_importance": self.importance,
            "substituted": self.substituted,
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipe that the model cannot be stored in, and why."""

    recipe: str
    why: str


class Model:
    """A model whose tensors can be given the types of one recipe after another; no weight is read.

    Raises `PlanError` for one whose hyperparameters do not say what a cache takes.
    """

    def __init__(self, source: Checkpoint[Tensor], runtime: Runtime) -> None:
        """source: as `formats.opened` gives it."""
        self._source, self._runtime = source, runtime
        self._begun: tuple[Sequence[Pass], Translation] | None = None
        self._metadata, self._architecture = metadata_of(source)
        caches, vocabulary = caches_of(self._metadata, self._architecture), vocabulary_of(source)
        trained = self._metadata.get(f"{self._architecture}.context_length")
        if caches is None or not vocabulary or trained is None or not isinstance(trained.value, int):
            raise PlanError(
                f"{source.path}: its hyperparameters do not say how much memory it takes to run",
                hint="is this a language model? `requant inspect` shows what it consists of",
            )
        self._caches: Sequence[LayerCache] = caches
        self._buffers, self.trained = 4 * MICRO_BATCH * vocabulary, trained.value

    @property
    def quantized(self) -> tuple[str, ...]:
        """The types of its matrices that are no plain numbers, each once."""
        labels = (t.encoding.label for t in self._source.tensors if not isinstance(t.encoding, Dense))
        return tuple(dict.fromkeys(labels))

    def offers(self, room: Room) -> tuple[list[Offer], list[Refused]]:
        """What each recipe of the runtime comes to, the largest first; and those that it cannot have."""
        found, refused = list[Offer](), list[Refused]()
        if FORMATS[self._runtime.format].naming is self._source.naming:
            found.append(self._offer(AS_IT_IS, self._source.tensors, room, 0.0))
        for recipe in self._runtime.recipes:
            try:
                said = self._typed(recipe)
            except Error as error:
                refused.append(Refused(recipe, str(error)))
                continue
            moves = zip(said.moves, said.encodings, strict=True)
            tensors = [Tensor(move.name, move.shape, encoding, {}) for move, encoding in moves]
            kinds, key = [loss.kind for loss in said.losses], (self._runtime.format, recipe)
            found.append(
                self._offer(
                    recipe,
                    tensors,
                    room,
                    MEASURED.get(key),
                    importance=LossKind.IMPORTANCE_UNUSED in kinds or key in WITH_IMPORTANCE,
                    substituted=kinds.count(LossKind.SUBSTITUTED),
                )
            )
        return sorted(found, key=lambda offer: -offer.nbytes), refused

    def _typed(self, recipe: str) -> Translation:
        """The model with the types of a recipe; what comes before the types is done once for all that share it."""
        target = FORMATS[self._runtime.format]
        request = Request(recipe, vocabulary=False, rehearsal=True)
        listed = LISTS[self._source.naming, target.naming](request, target, Path(recipe))
        end = next(place for place, one in enumerate(listed) if Fact.TYPED in one.ensures)
        before, types = listed[:end], listed[end]
        if self._begun is None or self._begun[0] != before:
            self._begun = before, made(before, unchanged(self._source))[0]
        return types(self._begun[1])

    def _offer(
        self,
        recipe: str,
        tensors: Sequence[Tensor],
        room: Room,
        kl: float | None,
        *,
        importance: bool = False,
        substituted: int = 0,
    ) -> Offer:
        nbytes, weights = sum(t.nbytes for t in tensors), sum(prod(t.shape) for t in tensors)
        placed = [Placed(tensor, *place_of(tensor.name)) for tensor in tensors]
        read, _ = bytes_for_a_token(placed, self._metadata, self._architecture)
        left = room.memory - nbytes - self._buffers
        return Offer(
            recipe,
            nbytes,
            8 * nbytes / max(1, weights),
            self._cache_bytes(room, room.context),
            self._buffers,
            self._longest(room, left),
            room.bandwidth / read if read else 0.0,
            kl,
            importance,
            substituted,
        )

    def _cache_bytes(self, room: Room, context: int) -> int:
        block = self._runtime.caches[room.cache]
        return room.sequences * sum(cache.nbytes(context, block) for cache in self._caches)

    def _longest(self, room: Room, left: int) -> int:
        """Tokens whose cache takes at most `left` bytes, in steps; by halving, as more tokens never take less."""
        if self._cache_bytes(room, self.trained) <= left:
            return self.trained
        low, high = 0, self.trained // _STEP
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._cache_bytes(room, middle * _STEP) <= left else (low, middle - 1)
        return low * _STEP


def best(offers: Sequence[Offer], room: Room) -> Offer | None:
    """Of those that fit, the one that loses least; of those that lose the same, the smallest. None where none fits.

    Where nobody has measured some of them, the one with the most bits.
    """
    fitting = [offer for offer in offers if offer.total <= room.memory]
    if all(offer.kl is not None for offer in fitting):
        return min(fitting, key=lambda offer: (offer.kl, offer.nbytes), default=None)
    return max(fitting, key=lambda offer: offer.bits_per_weight)
