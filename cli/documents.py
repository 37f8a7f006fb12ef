"""What `--json` prints: one document on standard output, whatever happens, in the shapes below.

docs/json.md is made from these classes, the texts included. Within one `requant.cli.saying.SCHEMA`, keys are added and
never taken away. No command imports this module: so many classes take a quarter of the time in which `--help` is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

#: What JSON has no number for is a word.
Real = float | Literal["nan", "inf", "-inf"]


class Document(TypedDict):
    """Every document."""

    schema: Annotated[Literal[2], "version of these shapes"]
    command: Annotated[str, "the command that was given"]
    document: Annotated[str, "which of the shapes this is"]


class Failure(TypedDict):
    """Why a command ended with an exit code that is not 0; standard error has it in words, too."""

    kind: Annotated[str, "FormatError, UnsupportedError, PlanError, VerifyError, UsageError, OSError, Interrupted, ..."]
    message: Annotated[str, "what is wrong, naming file, tensor and byte"]
    hint: Annotated[str, "the next move; empty where none is known"]
    exit_code: Annotated[int, "as the process ends"]


class ErrorDocument(Document):
    """`error`: what any command prints in place of its own document when it fails."""

    error: Annotated[Failure, "why"]


class OutputFile(TypedDict):
    """A file of the output."""

    name: Annotated[str, "relative to the destination, or to its folder; a Modelfile of `--ollama` is one, too"]
    bytes: Annotated[int, "its size"]


class Lost(TypedDict):
    """One thing that is not in the output as it was, or as it was asked for."""

    kind: Annotated[str, "such as `requantized` or `tensor dropped`"]
    subject: Annotated[str, "the tensor, key or file"]
    detail: Annotated[str, "what happens to it, and why"]
    bytes: Annotated[int, "what a tensor that is dropped takes in the source, else 0"]


class PassDone(TypedDict):
    """One pass of planning (see passes.md)."""

    name: Annotated[str, "of the pass"]
    does: Annotated[str, "what it is for"]
    did: Annotated[dict[str, int], "what it did -> how many times; what it did not do is left out"]
    types: Annotated[dict[str, int], "types it has chosen -> for how many tensors"]


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


class Written(TypedDict):
    """A model that was written."""

    files: Annotated[list[OutputFile], "what was written, the README.md of `--card` too"]
    seconds: Annotated[float, "the time it took"]
    bytes_read: Annotated[int, "bytes of tensors that were read"]
    bytes_written: Annotated[int, "bytes of all files"]
    relative_errors: Annotated[dict[str, Real], "tensor -> root of squared error over squared values, where measured"]
    replaced_values: Annotated[dict[str, int], "tensor -> how many of its values `--replace-nan` has replaced"]
    resumed_bytes: Annotated[int, "with `--resume`: bytes of the files that were finished before"]
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


class Share(TypedDict):
    """What some tensors add up to."""

    tensors: Annotated[int, "how many"]
    parameters: Annotated[int, "numbers in them"]
    bytes: Annotated[int, "stored bytes"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    types: Annotated[dict[str, int], "type -> how many tensors"]


class Memory(TypedDict):
    """Bytes that llama.cpp needs at one context length."""

    context: Annotated[int, "tokens"]
    weights: Annotated[int, "bytes of all tensors"]
    kv_cache_f16: Annotated[int, "bytes of keys and values in F16, and of recurrent states"]
    kv_cache: Annotated[dict[str, int], "type of the cache -> the same; types that llama.cpp refuses are left out"]
    recurrent_state: Annotated[int, "bytes of recurrent states, of one sequence"]
    compute_estimate: Annotated[int, "bytes of buffers, roughly"]
    total: Annotated[int, "all of it, with a cache of F16"]


class SpeedBound(TypedDict):
    """What the memory's bandwidth lets the speed of generating be at most, by one sequence: a bound, no forecast."""

    weight_bytes_per_token: Annotated[int, "weights that are read for each token: of experts, only those it is sent to"]
    experts_used: Annotated[int, "experts that a token is sent to; 0 where there are none"]
    experts: Annotated[int, "of how many"]
    bandwidth: Annotated[float, "bytes a second, as given"]
    tokens_per_second_at_most: Annotated[float, "bandwidth over these bytes"]
    context: Annotated[int, "tokens"]
    cache_bytes_per_token: Annotated[int, "keys and values in F16 that are read besides, once so many tokens are there"]
    tokens_per_second_at_most_full: Annotated[float, "bandwidth over both"]


class StoredPart(TypedDict):
    """A stretch of a file that is a part of a tensor."""

    file: Annotated[str, "its name"]
    offset: Annotated[int, "of the first byte"]
    bytes: Annotated[int, "how many there are"]


class Histogram(TypedDict):
    """How many values lie where: exact counts between BF16 numbers."""

    edges: Annotated[list[Real], "rising, one more than counts; what lies at one is of the side farther from zero"]
    counts: Annotated[list[int], "values between two edges"]
    below: Annotated[int, "outliers below the first edge"]
    above: Annotated[int, "outliers above the last edge"]


class Values(TypedDict):
    """What the numbers of a tensor are like; all but `nan` and `inf` is of the finite ones."""

    min: Annotated[Real, "the least; NaN where there are no finite values"]
    max: Annotated[Real, "the largest"]
    mean: Annotated[Real, "their mean"]
    std: Annotated[Real, "their standard deviation, that of a population"]
    kurtosis: Annotated[Real, "excess: 0 for a normal distribution; NaN where all values are the same"]
    zeros: Annotated[int, "how many are 0"]
    outliers: Annotated[int, "farther from the mean than 6 std, bounds being moved outwards to BF16 numbers"]
    nan: Annotated[int, "how many are NaN"]
    inf: Annotated[int, "how many are infinite"]
    histogram: Annotated[Histogram, "of all but the outliers"]


class StoredTensor(TypedDict):
    """A tensor of a model."""

    name: Annotated[str, "as the file has it"]
    shape: Annotated[list[int], "logical, slowest dimension first"]
    type: Annotated[str, "how it is stored"]
    bytes: Annotated[int, "all of its parts"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    layer: Annotated[int | None, "the layer it belongs to, if any"]
    role: Annotated[str, "name without layer"]
    parts: Annotated[dict[str, StoredPart], "part -> where it is stored; `data` where there is only one"]
    values: NotRequired[Annotated[Values, "with `--values`, but for integers"]]


class GgufFile(TypedDict):
    """What the beginning of a GGUF file says."""

    file: Annotated[str, "its name"]
    version: Annotated[int, "of the format"]
    tensors: Annotated[int, "in this file"]
    keys: Annotated[int, "key-values in this file"]
    alignment: Annotated[int, "of tensors, in bytes"]
    data_offset: Annotated[int | None, "of the first tensor; null where there is none"]


class Origin(TypedDict):
    """What a model says of where it comes from; empty where it says nothing."""

    name: Annotated[str, "what it is called"]
    author: Annotated[str, "by whom it is: an organization, or a person"]
    license: Annotated[str, "as it is called"]
    base_models: Annotated[list[str], "what it was made of: names on the Hub where it has those"]
    datasets: Annotated[list[str], "the same of data sets"]
    rounding: Annotated[str, "how requant rounded its weights, if not each to the nearest"]


class TokenRow(TypedDict):
    """A token."""

    id: Annotated[int, "its number"]
    text: Annotated[str, "as it is stored"]
    type: Annotated[str, "normal, unknown, control, user-defined, unused or byte"]
    score: Annotated[Real | None, "as SentencePiece has it; null where there is none"]


class TokenizerFacts(TypedDict):
    """What a tokenizer is like, in llama.cpp's words, whatever files it lies in."""

    model: Annotated[str, "tokenizer.ggml.model"]
    pre: Annotated[str, "tokenizer.ggml.pre"]
    tokens: Annotated[int, "how many there are"]
    types: Annotated[dict[str, int], "type -> how many tokens"]
    padding: Annotated[int, "how many only fill up the embedding"]
    merges: Annotated[int, "how many there are"]
    special: Annotated[dict[str, TokenRow], "bos, eos, pad, ... -> the token"]
    adds: Annotated[dict[str, bool], "bos, eos, sep -> whether a text gets it, where the files say"]
    longest: Annotated[TokenRow | None, "the normal token with the longest text"]


class ImportantColumn(TypedDict):
    """An input of a matrix."""

    matrix: Annotated[int, "the expert; 0 where there is one matrix"]
    column: Annotated[int, "its number"]
    share: Annotated[float, "of the mean squares of all inputs of that matrix"]


class ImportanceEntry(TypedDict):
    """What was measured of one tensor."""

    name: Annotated[str, "the tensor"]
    matrices: Annotated[int, "experts, else 1"]
    columns: Annotated[int, "inputs of a matrix"]
    tokens: Annotated[int, "that went into it, of all matrices"]
    unreached: Annotated[int, "matrices that no token reached"]
    silent_columns: Annotated[int, "inputs that were always 0, of matrices that were reached"]
    not_numbers: Annotated[int, "sums that are NaN or infinite"]
    top: Annotated[list[ImportantColumn], "the five largest"]


class ImportanceCoverage(TypedDict):
    """An importance matrix beside a model."""

    covered: Annotated[int, "matrices of layers, and the output, that have an entry that fits"]
    missing: Annotated[list[str], "those that have none, by names of GGUF"]
    unknown: Annotated[list[str], "entries without such a tensor"]
    misfits: Annotated[dict[str, str], "tensor -> why its entry does not fit"]


class ImportanceFacts(TypedDict):
    """What an importance matrix says."""

    datasets: Annotated[list[str], "texts it was measured on"]
    chunks: Annotated[int, "of them; 0 where the file does not say"]
    chunk_tokens: Annotated[int, "tokens of one; 0 where the file does not say"]
    entries: Annotated[list[ImportanceEntry], "in the order of the file"]
    coverage: Annotated[ImportanceCoverage | None, "with `--against`"]


class InspectionDocument(Document):
    """`inspection`: what `inspect --json` prints."""

    path: Annotated[str, "what was opened"]
    format: Annotated[str, "gguf, safetensors or torch; imatrix of an old importance matrix"]
    naming: Annotated[Literal["hf", "ggml"], "whose names the tensors have"]
    architecture: Annotated[str, "general.architecture or model_type; empty where the file does not say"]
    file_type: Annotated[str | None, "what a GGUF says it was quantized to"]
    parameters: Annotated[int, "numbers in all tensors"]
    tensor_bytes: Annotated[int, "bytes of all tensors"]
    file_bytes: Annotated[int, "bytes of all files"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    tied_output: Annotated[bool, "whether the embedding stands for the output"]
    notices: Annotated[list[str], "what the reader found strange"]
    types: Annotated[dict[str, Share], "type -> its tensors"]
    roles: Annotated[dict[str, Share], "name without layer -> its tensors"]
    layers: Annotated[dict[str, Share], "number of a layer -> its tensors"]
    exl2_weights_by_bits: Annotated[dict[str, int], "width of codes -> weights of EXL2 layers"]
    weights_by_bits: Annotated[dict[str, int], "width of codes -> weights of quantized layers of a folder"]
    origin: Annotated[Origin, "where it comes from"]
    memory: Annotated[list[Memory], "at 4,096 tokens and at the trained context, or at --ctx; empty where sizes lack"]
    speed: Annotated[SpeedBound | None, "null where sizes lack, and of what does not generate token by token"]
    tensors: Annotated[list[StoredTensor], "those whose name contains a match for --tensors, in the order of --sort"]
    config: NotRequired[Annotated[dict[str, Any], "with `--metadata`: config.json"]]
    metadata: NotRequired[Annotated[dict[str, Any], "with `--metadata`: key-values of a GGUF, or `__metadata__`"]]
    metadata_types: NotRequired[Annotated[dict[str, str], "with `--metadata`: key -> its type: u32, str, [f32], ..."]]
    gguf: NotRequired[Annotated[list[GgufFile], "with `--metadata`, of a GGUF: its files"]]
    tokenizer: NotRequired[Annotated[TokenizerFacts, "with `--tokenizer`"]]
    tokens: NotRequired[Annotated[list[TokenRow], "with `--tokens`: those whose text contains a match"]]
    templates: NotRequired[Annotated[dict[str, str], "with `--template`: name -> chat template, as it is"]]
    importance: NotRequired[Annotated[ImportanceFacts, "of an importance matrix"]]
    adapter: NotRequired[Annotated[dict[str, Any], "of an adapter: kind, base, ranks, alpha, scales, targets, ..."]]
    projector: NotRequired[
        Annotated[dict[str, Any], "of a projector: towers, each with its sense, kind and sizes, and text_width"]
    ]


class FoundModel(TypedDict):
    """A model in a folder of several; all but `path` and `error` is null where it cannot be read."""

    path: Annotated[str, "where it is"]
    format: Annotated[str | None, "as in `inspection`"]
    architecture: Annotated[str | None, "as there"]
    file_type: Annotated[str | None, "as there"]
    parameters: Annotated[int | None, "as there"]
    file_bytes: Annotated[int | None, "as there"]
    bits_per_weight: Annotated[float | None, "as there"]
    error: Annotated[str | None, "why it cannot be read"]


class InspectionsDocument(Document):
    """`inspections`: what `inspect --json` prints of a folder with models in it that is none itself."""

    path: Annotated[str, "the folder"]
    models: Annotated[list[FoundModel], "by name; of a model in several files, the first stands for all"]


class Figure(TypedDict):
    """A figure and its standard error."""

    value: Annotated[Real, "the figure"]
    error: Annotated[Real, "its standard error"]


class Loaded(TypedDict):
    """What llama.cpp says of a model it has loaded."""

    description: Annotated[str, "its words"]
    parameters: Annotated[int, "numbers in all tensors"]
    tensor_bytes: Annotated[int, "bytes of all tensors"]
    tokens: Annotated[int, "of the vocabulary"]
    context: Annotated[int, "tokens it was trained with"]
    width: Annotated[int, "of an embedding"]
    causal: Annotated[bool, "whether it predicts the next token; an encoder does not"]
    bos: Annotated[int, "token; -1 for none"]
    eos: Annotated[int, "token; -1 for none"]
    add_bos: Annotated[bool, "whether the tokenizer puts `bos` first"]
    chat_template: Annotated[str | None, "its source"]
    seconds: Annotated[float, "that loading took"]


class Said(TypedDict):
    """What the model said."""

    prompt: Annotated[str, "as given"]
    text: Annotated[str, "the answer"]
    chat: Annotated[bool, "whether the prompt went through the chat template"]
    tokens: Annotated[int, "of the answer"]
    tokens_per_second: Annotated[float, "generated"]


class Divergences(TypedDict):
    """A language model beside its reference."""

    kl: Annotated[Figure, "Kullback-Leibler divergence, mean over positions, in nats"]
    kl_99: Annotated[Real, "of the worst hundredth"]
    kl_99_error: Annotated[Real, "its standard error, by drawing positions again"]
    kl_max: Annotated[Real, "of the worst"]
    kl_max_error: Annotated[Real, "the same of it: a rough guess"]
    top1: Annotated[Figure, "share of positions with the same likeliest token"]
    ratio: Annotated[Figure, "perplexity over the reference's"]


class Compared(TypedDict):
    """The comparison with a reference."""

    reference: Annotated[str, "who computed it"]
    tokens_equal: Annotated[bool, "whether both tokenizers agree on the text"]
    perplexity: Annotated[Figure | None, "of the reference"]
    divergence: Annotated[Divergences | None, "of a language model"]
    cosine: Annotated[Real | None, "of an encoder: the worst similarity"]


class Difference(TypedDict):
    """Two models beside one reference, position by position."""

    kl: Annotated[Figure, "the model's KL divergence less the other's, mean over positions; below 0 it is better"]
    closer: Annotated[Figure, "share of positions at which it is nearer to the reference"]


class VersusDocument(TypedDict):
    """A second model beside the same reference, on the same tokens."""

    model: Annotated[str, "the file"]
    perplexity: Annotated[Figure, "of the text"]
    divergence: Annotated[Divergences, "as of the first"]
    difference: Annotated[Difference, "of both"]
    deviations: Annotated[float, "how many standard errors `difference.kl` is from 0"]
    real: Annotated[bool, "whether these are more than chance would make: 2"]


class CheckDocument(Document):
    """`check`: what `check --json` prints; a model that does badly has `failures`, and ends in exit code 5."""

    ok: Annotated[bool, "whether it passed"]
    model: Annotated[str, "the file"]
    info: Annotated[Loaded, "what it is"]
    warnings: Annotated[list[str], "of llama.cpp's log"]
    answer: Annotated[Said | None, "to the prompt"]
    perplexity: Annotated[Figure | None, "of the text"]
    scored_tokens: Annotated[int, "whose prediction was measured"]
    window: Annotated[int, "tokens of a window"]
    tokens_per_second: Annotated[float | None, "read"]
    embedded: Annotated[int, "texts that an encoder has embedded"]
    against: Annotated[Compared | None, "with `--against`"]
    versus: Annotated[VersusDocument | None, "with `--versus`"]
    relative_errors: NotRequired[Annotated[dict[str, Real], "with `--against` and `--html`: tensor -> as in `receipt`"]]
    failures: Annotated[list[str], "why it failed; empty where it passed"]


class FrontierPoint(TypedDict):
    """The best of a size."""

    bytes: Annotated[int, "of all files"]
    bits_per_weight: Annotated[float, "stored bits of one weight"]
    expected_kl: Annotated[float, "predicted KL divergence, nats per token"]


class FrontierMix(FrontierPoint):
    """A mix of llama.cpp's."""

    recipe: Annotated[str, "its name"]
    best_kl: Annotated[float | None, "what the best of its size is expected to have; null below the smallest"]


class FrontierDocument(Document):
    """`frontier`: what `--frontier --json` prints."""

    parameters: Annotated[int, "numbers in all tensors"]
    points: Annotated[list[FrontierPoint], "from the smallest to the largest, eight for each bit per weight at most"]
    mixes: Annotated[list[FrontierMix], "from the smallest to the largest"]


class CalibrationDocument(Document):
    """`calibration`: what `calibrate --json` prints."""

    files: Annotated[list[OutputFile], "what was written"]
    tensors: Annotated[int, "whose inputs were measured"]
    tokens: Annotated[int, "that were read"]
    gradient_tokens: Annotated[int, "of which gradients were taken"]
    hessians: Annotated[int, "sums of x xᵀ in the file: matrices that are given the same share one"]
    window: Annotated[int, "tokens of a window"]
    model: Annotated[str, "SHA-256 of the names and shapes of its tensors"]
    texts: Annotated[list[str], "SHA-256 of the tokens of each calibration"]
    unreached: Annotated[dict[str, int], "tensor -> how many of its experts no token reached"]


class Speed(TypedDict):
    """How exact and fast a type is, on values and a machine."""

    values: Annotated[str, "`N(0,1)`, or the name of the tensor"]
    relative_error: Annotated[Real | None, "root of squared error over squared values; null where rows do not fit"]
    encoded_per_second: Annotated[float | None, "weights, on one thread"]
    decoded_per_second: Annotated[float | None, "weights, on one thread"]


class TypeRow(TypedDict):
    """A type of GGUF."""

    type: Annotated[str, "its name"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    block_values: Annotated[int | None, "numbers that share a block; null where there are none"]
    block_bytes: Annotated[int | None, "bytes of a block"]
    needs_importance: Annotated[bool, "whether it is not made without an importance matrix"]
    copied_only: Annotated[bool, "whether tensors that have it keep it, and none is made"]
    measured: Annotated[list[Speed], "with `--measure` or `--tensor`"]


class RecipeRow(TypedDict):
    """A recipe of `--to`, in llama.cpp's own figures."""

    recipe: Annotated[str, "its name"]
    main_type: Annotated[str | None, "what most tensors become"]
    bits_per_weight: Annotated[float, "of Llama-3.1-8B, or else of the type alone"]
    of_a_model: Annotated[bool, "whether they are of a whole model"]
    perplexity_rise: Annotated[float | None, "of Llama-3-8B; null where none is published"]


class TypesDocument(Document):
    """`types`: what `types --json` prints."""

    types: Annotated[list[TypeRow], "all types"]
    recipes: Annotated[list[RecipeRow], "all recipes of a GGUF but COPY"]


class FamilyRow(TypedDict):
    """A family of models."""

    architecture: Annotated[str, "of a GGUF"]
    model_type: Annotated[str, "of config.json"]
    classes: Annotated[list[str], "that config.json may name"]
    back: Annotated[str, "the class that a GGUF becomes"]
    lost: Annotated[list[str], "what is left out on the way to GGUF where a model has it, and why"]


class ProjectorRow(TypedDict):
    """What sees or hears, and the projector behind it: what `convert --mmproj` writes."""

    projector: Annotated[str, "what it is called here"]
    kinds: Annotated[list[str], "the `clip.projector_type`s that it may write"]
    classes: Annotated[list[str], "that config.json may name, of the model or of its vision model"]
    lost: Annotated[list[str], "what is left out where a model has it, and why"]


class FamiliesDocument(Document):
    """`families`: what `families --json` prints."""

    families: Annotated[list[FamilyRow], "all families, or those asked for"]
    projectors: Annotated[list[ProjectorRow], "all projectors, or those asked for"]


class ChecksumRow(TypedDict):
    """A checksum of a tensor, or of the whole model."""

    algorithm: Annotated[str, "xxh64, xxh3, sha1, sha256, blake3 or uuid"]
    digest: Annotated[str, "hexadecimal; a UUID with its dashes"]
    tensor: Annotated[str | None, "its name; null for the model"]
    verdict: Annotated[str | None, "with --verify: Ok, Mismatch, Not Found (in the manifest) or Missing (in the model)"]


class HashDocument(Document):
    """`hash`: what `hash --json` prints."""

    checksums: Annotated[list[ChecksumRow], "of the tensors in file order, then of the model"]


class DiffSide(TypedDict):
    """One of two models that are compared."""

    path: Annotated[str, "as given, or in the cache"]
    format: Annotated[str, "as in `inspection`"]
    naming: Annotated[Literal["hf", "ggml"], "as in `inspection`"]
    architecture: Annotated[str, "as in `inspection`"]
    family: Annotated[str | None, "model type of the family whose table it is read by; null where it is of none"]
    tensors: Annotated[int, "how many are stored"]
    parameters: Annotated[int, "numbers in all tensors"]
    tensor_bytes: Annotated[int, "stored bytes of all tensors"]
    file_bytes: Annotated[int, "bytes of their files"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    types: Annotated[dict[str, Share], "type -> its tensors"]


class DiffSetting(TypedDict):
    """A key that is not the same on both sides."""

    key: Annotated[str, "of GGUF or of config.json, whichever `names` says; inner keys of config.json with dots"]
    about: Annotated[
        str, "model, general, tokenizer, storage (how tensors are stored) or file (who wrote it: no difference)"
    ]
    status: Annotated[
        Literal["differs", "only a", "only b", "only a can hold it", "only b can hold it"],
        "the last two are no difference: the other format has no place for it",
    ]
    a: Annotated[Any, "its value; null where there is none; of a list of more than 4,096 items their number"]
    b: Annotated[Any, "the same of B"]
    detail: Annotated[str, "why; empty where that needs no word"]


class DiffToken(TypedDict):
    """A token that has not the same id on both sides."""

    text: Annotated[str, "the token"]
    a: Annotated[int | None, "its id in A; null where it is not there"]
    b: Annotated[int | None, "its id in B"]


class DiffTokenType(TypedDict):
    """A token of the same id that is of another type, such as control or normal."""

    text: Annotated[str, "the token"]
    a: Annotated[str, "its type in A"]
    b: Annotated[str, "its type in B"]


class DiffTemplate(TypedDict):
    """A chat template that differs."""

    name: Annotated[str, "empty for the one that is used"]
    diff: Annotated[list[str], "lines as `diff -u` prints them"]


class DiffTokenizer(TypedDict):
    """Two tokenizers, compared as GGUF keeps them; of lists at most 1,000 items."""

    tokens_a: Annotated[int | None, "tokens, without those that fill up rows; null for no tokenizer, or if unread"]
    tokens_b: Annotated[int | None, "the same of B"]
    differing_tokens: Annotated[int, "how many have not the same id on both sides"]
    tokens: Annotated[list[DiffToken], "these, by their ids"]
    retyped: Annotated[list[DiffTokenType], "tokens of another type"]
    rescored: Annotated[int, "how many have another score"]
    merges_a: Annotated[int, "merges of byte pairs"]
    merges_b: Annotated[int, "the same of B"]
    merges_only_a: Annotated[list[str], "merges that B lacks"]
    merges_only_b: Annotated[list[str], "merges that A lacks"]
    merges_moved: Annotated[bool, "whether merges that both have come in another order"]
    settings: Annotated[list[DiffSetting], "ids of special tokens, the pre-tokenizer and the like"]
    templates: Annotated[list[DiffTemplate], "chat templates that differ"]
    lost: Annotated[list[str], "what of a folder's tokenizer has no place in a GGUF"]
    unread: Annotated[str, "why not everything was compared; empty where it was"]
    same_files: Annotated[bool, "whether all files are the same, so that nothing had to be read"]


class DiffStored(TypedDict):
    """How one side has a tensor."""

    shape: Annotated[list[int], "slowest dimension first, in the words of the comparison"]
    type: Annotated[str, "how it is stored; of several tensors each type once, with + between"]
    bits_per_weight: Annotated[float, "stored bits of one number"]
    bytes: Annotated[int, "stored bytes of its numbers"]
    values: Annotated[str, "what it is, as an expression over stored tensors"]


class DiffNumbers(TypedDict):
    """Numbers of A beside those of B; errors are B less A, over what is finite on both sides."""

    values: Annotated[int, "how many numbers each side has"]
    relative_error: Annotated[Real, "root of the squared error over the squares of A"]
    largest_error: Annotated[Real, "the largest size of a difference"]
    cosine: Annotated[Real, "of the angle between both"]
    snr_db: Annotated[Real, "squares of A over the squared error, in decibels; inf where nothing differs"]
    changed: Annotated[int, "values that are not equal; NaN is equal to NaN"]
    sign_flips: Annotated[int, "values of the other sign"]
    not_finite_a: Annotated[int, "values that are NaN or infinite in A alone"]
    not_finite_b: Annotated[int, "values that are NaN or infinite in B alone"]
    not_finite_both: Annotated[int, "values that are NaN or infinite in both"]


class DiffTensor(TypedDict):
    """A tensor of either model."""

    name: Annotated[str, "in the words of the comparison"]
    layer: Annotated[int | None, "the layer that it is of"]
    role: Annotated[str, "its name without the layer"]
    differs: Annotated[list[str], "`only a` or `only b`, or of `shape`, `type` and `values` those that do"]
    a: Annotated[DiffStored | None, "how A has it; null where it has not"]
    b: Annotated[DiffStored | None, "how B has it"]
    numbers: NotRequired[
        Annotated[DiffNumbers | None, "with `--values`; null where there is nothing to compare; of rows both have"]
    ]


class DiffLeftOut(TypedDict):
    """A tensor that the other format has no place for."""

    side: Annotated[Literal["a", "b"], "which model has it"]
    name: Annotated[str, "as it is stored"]
    reason: Annotated[str, "why it is left out"]
    bytes: Annotated[int, "stored bytes"]


class DiffFile(TypedDict):
    """A file beside the weights of two folders that is not the same."""

    name: Annotated[str, "relative to the folder"]
    status: Annotated[Literal["differs", "only a", "only b"], "how it differs"]


class DiffSums(TypedDict):
    """With `--values`: the numbers of several tensors together."""

    total: Annotated[DiffNumbers, "of all that were compared"]
    roles: Annotated[dict[str, DiffNumbers], "role -> its tensors, worst first"]
    layers: Annotated[dict[str, DiffNumbers], "number of a layer -> its tensors, worst first"]


class DiffDocument(Document):
    """`diff`: what `diff --json` prints; models that differ end in exit code 1."""

    equal: Annotated[bool, "whether nothing differs that both formats could hold"]
    names: Annotated[
        Literal["gguf", "hf", "stored"],
        "whose keys and names are used; `stored`: each model's own, with none in common",
    ]
    notes: Annotated[list[str], "what was strange, and what could not be compared, and why"]
    a: Annotated[DiffSide, "the first model"]
    b: Annotated[DiffSide, "the second"]
    settings: Annotated[list[DiffSetting], "keys that are not the same, tokenizers apart"]
    tokenizer: Annotated[DiffTokenizer, "what differs between tokenizers"]
    tensors: Annotated[list[DiffTensor], "those of both, whether they differ or not"]
    left_out: Annotated[list[DiffLeftOut], "tensors that the other format has no place for: no difference"]
    files: Annotated[list[DiffFile], "of two folders, what else lies in them and is not the same"]
    sums: NotRequired[Annotated[DiffSums, "with `--values`"]]


class FindingRow(TypedDict):
    """Something that breaks a rule."""

    rule: Annotated[str, "its name, as `validate --rules` lists it"]
    severity: Annotated[Literal["error", "warning"], "as the rule has it"]
    message: Annotated[str, "what is wrong, naming file, tensor or key"]
    hint: Annotated[str, "the next move; empty where none is known"]
    reason: Annotated[str, "what must hold, and what happens else"]


class ValidationDocument(Document):
    """`validation`: what `validate --json` prints; with errors, it ends in exit code 5."""

    path: Annotated[str, "what was looked at"]
    errors: Annotated[int, "how many there are"]
    warnings: Annotated[int, "how many there are"]
    findings: Annotated[list[FindingRow], "in the order of the files; of one rule 1,000 at most"]
    checked: Annotated[list[str], "what was looked at"]
    unchecked: Annotated[list[str], "what was not, and why"]


class RuleRow(TypedDict):
    """A rule of `validate`."""

    rule: Annotated[str, "its name"]
    severity: Annotated[Literal["error", "warning"], "an error ends in exit code 5, a warning with `--strict`"]
    about: Annotated[str, "what it is of"]
    says: Annotated[str, "what must hold"]
    reason: Annotated[str, "what happens else"]


class RulesDocument(Document):
    """`rules`: what `validate --rules --json` prints."""

    rules: Annotated[list[RuleRow], "all of them"]


class KeyChange(TypedDict):
    """A key that is not as it was."""

    key: Annotated[str, "its name"]
    type: Annotated[str, "of a GGUF, `[str]` for a list; `str` or `json` elsewhere"]
    before: Annotated[Any, "the old value; null where there was none; of a list of a GGUF `items`, its length"]
    after: Annotated[Any, "the new value, likewise"]


class EditDocument(Document):
    """`edit`: what `edit --json` prints."""

    path: Annotated[str, "the file that has the new head"]
    way: Annotated[
        Literal["none", "in_place", "share", "insert", "copy"],
        "nothing to change, in place, a copy that shares data, data moved by the file system, a copy",
    ]
    dry_run: Annotated[bool, "whether nothing was written"]
    changes: Annotated[list[KeyChange], "in the order of the file"]
    tensors: Annotated[dict[str, str], "old name -> new name"]
    files: Annotated[list[OutputFile], "those that are written, in part or as a whole"]
    removed: Annotated[list[str], "files of the old tokenizer that are removed"]
    head_bytes: Annotated[int, "before the data; 0 where nothing changes"]
    free_bytes: Annotated[int, "by which the head can grow in place, next time"]
    copied_bytes: Annotated[int, "of data that were read and written"]


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
    "types": TypesDocument,
    "families": FamiliesDocument,
    "hash": HashDocument,
    "diff": DiffDocument,
    "validation": ValidationDocument,
    "rules": RulesDocument,
    "error": ErrorDocument,
}
