"""`inspect --json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from requant.cli.documents.shared import Document, Real


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
