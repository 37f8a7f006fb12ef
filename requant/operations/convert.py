"""Any readable checkpoint to any writable format: names, metadata, tokenizer and encodings decided, nothing done.

Architectures, tokenizers and schemes are imported by the conversions that need them: they are half of the time in
which a command starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from requant.encodings import BF16, F16, F32, Blocks, Dense, Encoding
from requant.encodings.companions import Companioned
from requant.encodings.exactness import holds
from requant.encodings.scaled import BESIDE
from requant.errors import PlanError, UnsupportedError
from requant.importance import Importance
from requant.ir import QUANTIZATION_FILES, Checkpoint, Json, Naming, Tensor, TensorSpec, Typed
from requant.layout import Format, Layout, LayoutOptions
from requant.operations import companions, experts
from requant.operations.hf_importance import in_hf_names, unused_importance
from requant.operations.steps import rounded_twice, steps_for
from requant.plan import Loss, LossKind, Move, Plan, Step, Translation
from requant.recipes import (
    Choice,
    Facts,
    Overrides,
    Recipe,
    Wanted,
    check_importance,
    choose_converted,
    choose_encodings,
    own_file_type,
    quantized_metadata,
    recipe_named,
    unused_overrides,
)

#: What readers of a Hugging Face folder look for: weights, tokenizer, templates, and how they are to be used.
_READ_FILES: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "modules.json",
    *QUANTIZATION_FILES,
)

#: Groups of keys in a GGUF made from an HF folder; "" stands for the architecture's and all others.
_METADATA_ORDER: Final = ("general", "", "tokenizer", "quantize")

#: Where config.json says how weights are quantized.
_QUANTIZATION_KEYS: Final = ("quantization_config", "compression_config", "quantization")

#: What a GGUF without a tokenizer says.
_NO_TOKENIZER: Final = Typed("str", "none")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for besides source and destination.

    recipe: a name as users type it; None keeps what can be kept. importance: from an imatrix file.
    key_values: metadata to set in a GGUF (`--override-kv`). vocabulary: False leaves the tokenizer out of a GGUF.
    """

    recipe: str | None = None
    overrides: Overrides = Overrides()
    importance: Importance | None = None
    key_values: tuple[tuple[str, Typed], ...] = ()
    cut: LayoutOptions = LayoutOptions()
    vocabulary: bool = True


def plan_conversion(source: Checkpoint[Tensor], target: Format, destination: Path, request: Request) -> Plan:
    """Decide how `source` becomes `destination`; raises `PlanError` or `UnsupportedError` for whatever cannot be."""
    if target.naming is Naming.GGML:
        said = to_ggml(source, request.vocabulary) if source.naming is Naming.HF else unchanged(source)
        steps, said = _ggml_steps(source, said, request)
    else:
        said = to_hf(source) if source.naming is Naming.GGML else unchanged(source)
        steps, said = _hf_steps(source, said, request)
    for step in steps:
        if not target.accepts(step.target.encoding):
            raise PlanError(
                f"{step.target.name}: {target.name} cannot store {step.target.encoding.label}",
                hint="choose another type with --to, or another format",
            )
    described: Checkpoint[TensorSpec] = Checkpoint(
        target.naming,
        said.architecture,
        tuple(step.target for step in steps),
        said.config,
        said.metadata,
        said.files,
    )
    suspect = [Loss(LossKind.SUSPECT, source.path.name, notice) for notice in source.notices]
    layout = target.layout(described, destination, request.cut)
    losses = (*suspect, *said.losses, *_left_behind(described, layout), *rounded_twice(steps))
    return Plan(tuple(steps), layout, losses, obsolete_files(layout))


def _left_behind(described: Checkpoint[TensorSpec], layout: Layout) -> list[Loss]:
    """What belongs to an HF folder and has no place in a file of tensors alone."""
    if described.naming is not Naming.HF:
        return []
    written = {file.name for file in layout.files}
    files = [*(["config.json"] if described.config else []), *described.files]
    detail = "a file by itself holds tensors only; a destination that is a folder keeps it"
    return [Loss(LossKind.METADATA_DROPPED, name, detail) for name in files if name not in written]


def obsolete_files(layout: Layout) -> tuple[Path, ...]:
    """Files in the destination's folder that a reader would take for parts of the new model there."""
    names = {file.name for file in layout.files}
    if "config.json" not in names or not layout.root.is_dir():
        return ()  # a single file stands for itself, whatever lies beside it
    found = {path for pattern in _READ_FILES for path in layout.root.glob(pattern)}
    return tuple(sorted(path for path in found if path.relative_to(layout.root).as_posix() not in names))


def unchanged(source: Checkpoint[Tensor]) -> Translation:
    """The checkpoint in its own naming."""
    moves = tuple(Move(tensor.name, tensor.shape, (tensor,)) for tensor in source.tensors)
    return Translation(source.architecture, moves, dict(source.config), dict(source.metadata), dict(source.files))


def to_ggml(source: Checkpoint[Tensor], vocabulary: bool) -> Translation:
    """HF to GGML: names, hyperparameters, tokenizer."""
    from requant import tokenizers
    from requant.architectures import translate

    if not source.config:
        raise _not_a_model(source)
    said = translate(source, Naming.GGML)
    rows = next((move.shape[0] for move in said.moves if move.name == "token_embd.weight"), None)
    if not vocabulary:  # without a tokenizer, llama.cpp counts the tokens by this key
        size = {} if rows is None else {f"{said.architecture}.vocab_size": Typed("u32", rows)}
        return replace(said, metadata={**said.metadata, **size, "tokenizer.ggml.model": _NO_TOKENIZER})
    outcome = tokenizers.to_ggml(source, rows)
    return replace(said, metadata={**said.metadata, **outcome.metadata}, losses=(*said.losses, *outcome.losses))


def _not_a_model(source: Checkpoint[Tensor]) -> UnsupportedError:
    """The error for tensors of which nobody says what model they make."""
    if "adapter_config.json" in source.files:
        return UnsupportedError(
            f"{source.path} is an adapter (LoRA), to be put on a model, and none itself",
            hint="merge it into its model first (PEFT's merge_and_unload), and convert the result",
        )
    inside = not source.path.is_dir()
    return UnsupportedError(
        f"{source.path} has no config.json, which says what model the tensors make",
        hint="convert the folder that has it, not a file inside" if inside else "fetch config.json into the folder",
    )


def to_hf(source: Checkpoint[Tensor]) -> Translation:
    """GGML to HF: names, config.json, tokenizer files."""
    from requant import tokenizers
    from requant.architectures import translate

    source, dropped = companions.folded(source)
    said = companions.apart(translate(source, Naming.HF))
    said = replace(said, losses=(*dropped, *said.losses))
    if source.metadata.get("tokenizer.ggml.model", _NO_TOKENIZER) == _NO_TOKENIZER:
        return said
    outcome = tokenizers.to_hf(source.metadata)
    files = {**said.files, **outcome.files}
    return replace(said, config={**said.config, **outcome.config}, files=files, losses=(*said.losses, *outcome.losses))


def _ggml_steps(source: Checkpoint[Tensor], said: Translation, request: Request) -> tuple[list[Step], Translation]:
    names = {move.name for move in said.moves}
    alone = [companions.bare(move, said.architecture, names) for move in said.moves]
    wanted = [
        Wanted(move.name, move.shape, _encoding_of(other or move))
        for move, other in zip(said.moves, alone, strict=True)
    ]
    facts = Facts(said.architecture, said.metadata)
    recipe = _ggml_recipe("COPY" if request.recipe is None else request.recipe)
    choose = choose_converted if source.naming is Naming.HF else choose_encodings
    choices = choose(recipe, wanted, facts, request.overrides, request.importance)
    losses = [loss for want, choice in zip(wanted, choices, strict=True) if (loss := choice.loss(want.name))]
    losses += unused_overrides(request.overrides, wanted)
    losses += check_importance(recipe, wanted, choices, request.importance)
    tensors = {tensor.name: tensor for tensor in source.tensors}
    parted = companions.divided(said.moves, alone, [choice.encoding for choice in choices], tensors)
    moves, encodings = parted.moves, parted.encodings
    if source.naming is Naming.GGML:
        moves, encodings, more = companions.multiplied_output(moves, encodings)
        losses += more
    steps = steps_for(moves, encodings, request.importance)
    metadata = _ggml_metadata(source, said, recipe, wanted, choices, request)
    told = [loss for loss in said.losses if loss.subject not in parted.carried]
    return steps, replace(said, metadata=metadata, losses=(*told, *losses))


def _ggml_recipe(name: str) -> Recipe:
    try:
        return recipe_named(name)
    except PlanError as error:
        from requant.schemes import SCHEMES

        if name.upper().split("-")[0] not in SCHEMES:
            raise
        raise PlanError(f"no GGUF can be {name}: Hugging Face folders are", hint=error.hint) from None


def _ggml_metadata(
    source: Checkpoint[Tensor],
    said: Translation,
    recipe: Recipe,
    wanted: Sequence[Wanted],
    choices: Sequence[Choice],
    request: Request,
) -> dict[str, Typed]:
    """What the reference tools write; a GGUF that is only copied keeps its metadata as it is."""
    if source.naming is Naming.GGML and recipe.main is None:
        return {**said.metadata, **dict(request.key_values)}
    if source.naming is Naming.GGML:
        return quantized_metadata(said.metadata, recipe, wanted, request.key_values, request.importance)
    now = [Wanted(want.name, want.shape, choice.encoding) for want, choice in zip(wanted, choices, strict=True)]
    own = {**said.metadata, **own_file_type(now)}
    metadata = quantized_metadata(own, recipe, now, request.key_values, request.importance)
    return dict(sorted(metadata.items(), key=lambda item: _METADATA_ORDER.index(_group_of(item[0]))))


def _group_of(key: str) -> str:
    group = key.partition(".")[0]
    return group if group in _METADATA_ORDER else ""


def _hf_steps(source: Checkpoint[Tensor], said: Translation, request: Request) -> tuple[list[Step], Translation]:
    """Steps of an HF folder: plain floats, or a quantization scheme; config.json says which, and nothing stale."""
    from requant import schemes

    scheme = None if request.recipe is None else schemes.scheme_named(request.recipe)
    if request.recipe is not None:
        said = _without_scales_beside(said)
        stacked = isinstance(scheme, schemes.scaled.ScaledFloats) and scheme.stores_stacks(said.config)
        said = replace(said, moves=experts.upright(said.moves) if stacked else experts.as_parameters(said.moves))
        if source.naming is Naming.HF and not isinstance(scheme, schemes.exl2.Exl2Scheme):
            from requant.architectures import joined

            said = replace(said, moves=joined(said.moves, said.architecture))
    if scheme is not None:
        importance = None if request.importance is None else in_hf_names(request.importance, source, said.moves)
        if importance is not None and isinstance(scheme, schemes.Weighs):
            scheme = scheme.weighing(importance)
        applied = scheme.apply(said.moves, said.config)
        steps = steps_for(said.moves, applied.encodings, importance)
        unused = [] if importance is None else unused_importance(steps, importance)
        said = _without_quantization(said)
        config = {**_with_dtype(said.config, steps), "quantization_config": dict(applied.quantization)}
        losses = (*said.losses, *applied.losses, *unused)
        return steps, replace(said, config=config, files={**said.files, **applied.files}, losses=losses)
    if request.overrides != Overrides():
        raise PlanError(
            "--tensor-type, --pure and the like choose the types of a GGUF's tensors; the destination is none",
            hint="leave them out, or let the destination's name end in .gguf",
        )
    if request.importance is not None:
        raise PlanError(
            "--imatrix says where quantizing may lose; plain numbers are rounded to the nearest",
            hint="leave it out, or quantize: --to GPTQ, AWQ, W4A16, EXL2-4.0, ...",
        )
    asked = None if request.recipe is None else _dense(request.recipe)
    steps = steps_for(said.moves, [hf_encoding(_encoding_of(move), asked) for move in said.moves], None)
    if all(isinstance(step.target.encoding, Dense) for step in steps):
        said = _without_quantization(said)
    return steps, replace(said, config=_with_dtype(said.config, steps))


def _without_scales_beside(said: Translation) -> Translation:
    """The same without what only the quantized source needs."""
    scales = {move.name: move for move in said.moves if BESIDE.fullmatch(move.name)}
    moves = tuple(move for move in said.moves if move.name not in scales)
    detail = "only what runs the quantized source needs it"
    losses = tuple(Loss.of_tensor(move.inputs[0], detail) for move in scales.values())
    return replace(said, moves=moves, losses=(*said.losses, *losses))


def _without_quantization(said: Translation) -> Translation:
    """The same, with nothing left that speaks of how the source was quantized."""
    config = {key: value for key, value in said.config.items() if key not in _QUANTIZATION_KEYS}
    files = {name: source for name, source in said.files.items() if name not in QUANTIZATION_FILES}
    return replace(said, config=config, files=files)


def hf_encoding(source: Encoding, asked: Dense | None) -> Encoding:
    """What a tensor becomes in an HF folder without a scheme.

    Integers stay, numbers become `asked`. Unless asked everything stays but ggml's blocks, which become F16, or BF16
    where that holds their values.
    """
    if isinstance(source, Dense) and not source.dtype.is_float:
        return source
    if asked or not isinstance(source, Blocks | Companioned):
        return asked or source
    return BF16 if holds(source, BF16) else F16


def _dense(name: str) -> Dense:
    from requant.schemes import SCHEMES

    offers = f"--to F16, BF16, F32, {', '.join(SCHEMES)}"
    try:
        recipe = recipe_named(name)
    except PlanError:
        raise PlanError(f"nothing a Hugging Face folder may hold is called {name!r}", hint=offers) from None
    if not isinstance(recipe.main, Dense):
        raise PlanError(
            f"a Hugging Face folder cannot be {recipe.name}",
            hint=f"{offers}; or let the destination's name end in .gguf",
        )
    return recipe.main


def _with_dtype(config: Mapping[str, Json], steps: Sequence[Step]) -> dict[str, Json]:
    """config.json says in which dtype most weights are stored."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    stored: dict[str, int] = {}
    for step in steps:
        name = names.get(step.target.encoding.label)
        if name is not None:
            stored[name] = stored.get(name, 0) + step.target.nbytes
    if not config or not stored:
        return dict(config)
    key = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, key: max(stored, key=lambda name: stored[name])}


def _encoding_of(move: Move) -> Encoding:
    """How a tensor's values are stored now; for several inputs, what holds the values of all of them."""
    stored = tuple(dict.fromkeys(tensor.encoding for tensor in move.inputs))
    fitting = (one for one in (*stored, F16, BF16) if all(holds(other, one) for other in stored))
    return next(fitting, F32)
