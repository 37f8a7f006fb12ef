"""What sees and hears in a Hugging Face checkpoint, said as ggml says it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.general import general_metadata
from requant.architectures.names import Expected, find, named
from requant.architectures.numbers import shown
from requant.architectures.reordered import by_outputs
from requant.architectures.rules import Config, Flags, Order, Rule, Sizes
from requant.architectures.values import assumptions_hold, plain
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Affine, Node, RopeOrder, Slice, Stored, Transposed, reshaped
from requant.ir import PROJECTOR, Checkpoint, Tensor
from requant.losses import Loss
from requant.plan import Move, Translation
from requant.projectors import index
from requant.projectors.rules import OUTSIDE, PREPROCESSOR, Projector
from requant.projectors.settings import settings_of, to_ggml, token_number, where
from requant.projectors.sizes import Sums

#: The text half, which is a GGUF of its own, and what only training needs.
_TEXT: Final = re.compile(
    r"""(?x)
    (?:thinker\.)?(?:model\.)?(?:language_model|text_model|llm|text_decoder)\..*
    | (?:thinker\.)?(?:language_model\.|model\.)?lm_head\..*
    | (?:thinker\.)?(?:model\.)?(?:layers|embed_tokens|norm)\..*
    | (?:model\.)?mtp\..*
    | (?:talker|token2wav|code2wav)\..*
    """
)
#: What config.json calls the settings of what sees or hears.
_SENSES: Final = frozenset(
    ("vision_config", "audio_config", "thinker_config", "whisper_config", "speech_config", "sound_config", "visual")
) | {"vision_encoder", "encoder", "encoder_config", "speaker_encoder_config", "vision", "mm_vision_tower"}
#: Which size counts the blocks of what begins so.
_STACKS: Final = {"v": "layers", "a": "audio_layers", "mm": "projector_layers"}


def translated(said: Translation) -> Translation:
    """Names, shapes and hyperparameters of the encoders and of what stands between them and the text model.

    Raises `UnsupportedError` for a model that neither sees nor hears, or in a way that is not known, and `PlanError`
    for whatever contradicts itself, naming tensor or key.
    """
    source = said.source
    config = settings_of(source)
    projector = _recognized(source, config)
    config |= {name: token_number(source, token) for name, token in projector.tokens.items()}
    losses = assumptions_hold(
        projector.assumptions, config, repr(projector.name), "projector", where=where, quoted=shown
    )
    tensors = _by_usual_name(projector, source)
    prepared = any(name.startswith(PREPROCESSOR) for name in config)
    settings, written = to_ggml(projector.keys, config, prepared=prepared)
    values = {key: plain(typed.value) for key, typed in written.items()}
    shapes = {name: tensor.shape or (1,) for name, tensor in tensors.items()}  # a number alone has no rows to count
    sizes = Sums(projector.sizes(values, settings, shapes))
    flags: Flags = {
        **projector.flags(settings),
        **{flag: any(re.search(pattern, name) for name in tensors) for flag, pattern in projector.present.items()},
    }
    moves, used = [], set()
    for item in expected(projector, sizes, flags, len(tensors)):
        tensor = find(item, item.hf[0], item.shape, tensors)
        used.add(item.hf[0])
        moves.append(Move(item.ggml, reshaped(_values(item, tensor, sizes), item.ggml_shape)))
    left = [name for name in tensors if name not in used]
    metadata = {full_key(key): typed for key, typed in written.items()}
    said = replace(said, architecture=PROJECTOR, moves=tuple(moves), metadata=metadata, config={}, files={})
    return said.losing(*losses, *_leftovers(projector, tensors, left))


def full_key(key: str) -> str:
    """A key as it stands in the file."""
    return key.removeprefix(OUTSIDE) if key.startswith(OUTSIDE) else f"{PROJECTOR}.{key}"


def described(said: Translation) -> Translation:
    """`general.*`, as llama.cpp's converter says it of a projector."""
    general, losses = general_metadata(said.source, PROJECTOR, said.moves, projector=True)
    return replace(said, metadata=general | said.metadata).losing(*losses)


def _recognized(source: Checkpoint[Tensor], config: Config) -> Projector:
    classes = index.classes_of(source.config)
    why = ""
    for projector in index.named(classes):
        why = projector.takes(config)
        if not why:
            return projector
    shown_classes = ", ".join(classes) or "no class"
    if why:
        raise UnsupportedError(f"config.json: {shown_classes}: {why}")
    if not _SENSES & config.keys():
        raise UnsupportedError(
            f"config.json says {shown_classes}, which neither sees nor hears: there is no projector to write",
            hint="leave out --mmproj to convert the model itself",
        )
    raise UnsupportedError(
        f"config.json says {shown_classes}, whose projector is not supported",
        hint="supported: " + ", ".join(sorted({name for one in index.every() for name in one.classes})),
    )


def _by_usual_name(projector: Projector, source: Checkpoint[Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that the rules have."""
    found: dict[str, Tensor] = {}
    for tensor in source.tensors:
        name = tensor.name
        for old, new in projector.renamed:
            name = re.sub(old, new, name)
        if name in found:
            raise PlanError(f"tensors {found[name].name!r} and {tensor.name!r} are the same by two names")
        found[name] = tensor
    return found


def expected(projector: Projector, sizes: Sizes, flags: Flags, tensors: int) -> Iterator[Expected]:
    """Every tensor of a projector of these sizes."""
    for size in _STACKS.values():
        if sizes.get(size, 0) > tensors:
            raise PlanError(f"the configuration says {sizes[size]} layers, but there are only {tensors} tensors")
    for rule in projector.rules:
        if not rule.layered and rule.applies(flags, None):
            yield named(rule, None, sizes, "")
    for stack, size in _STACKS.items():
        rules = [rule for rule in projector.rules if rule.layered and rule.ggml.split(".")[0] == stack]
        seen = dict.fromkeys(rules, 0)
        for n in range(sizes[size] if rules else 0):
            for rule in rules:
                if rule.applies(flags, n):
                    yield named(replace(rule, hf=rule.hf.replace("{k}", str(seen[rule]))), n, sizes, "")
                    seen[rule] += 1


def _values(item: Expected, tensor: Tensor, sizes: Sizes) -> Node:
    rule: Rule = item.rule
    node: Node = Stored(tensor)
    if rule.order is Order.ROPE:
        node = by_outputs(node, item.shape, lambda rows: RopeOrder(rows, sizes[rule.heads]))
    elif rule.order is Order.TRANSPOSED:
        node = Transposed(node)
    for change in rule.changes:
        node = change.to_ggml(node, sizes)
    if rule.turn is not None:
        counts = [sizes[name] for name in rule.among]
        start, stop = sum(counts[: rule.turn]), sum(counts[: rule.turn + 1])
        node = by_outputs(node, (stop - start, *node.shape[1:]), lambda rows: Slice(rows, start, stop))
    return Affine(node, term=rule.add) if rule.add else node


def _leftovers(projector: Projector, tensors: Mapping[str, Tensor], left: list[str]) -> list[Loss]:
    """Losses for what is left out on purpose; an error for what nobody knows."""
    losses, strange = [], []
    for name in left:
        reason = next((item for item in projector.ignored if re.fullmatch(item.pattern, name)), None)
        if reason is not None:
            losses += [Loss.of_tensor(tensors[name], reason.reason)] if reason.lost else []
        elif not _TEXT.fullmatch(tensors[name].name):
            strange.append(tensors[name].name)
    if strange:
        more = f"; {len(strange) - 1} more are unknown" if len(strange) > 1 else ""
        raise PlanError(
            f"tensor {strange[0]!r} belongs neither to a {projector.name!r} projector nor to a text model{more}",
            hint="nothing is dropped silently; is config.json that of this model?",
        )
    return losses
