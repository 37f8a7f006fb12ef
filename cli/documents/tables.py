"""`types --json`, `families --json`, `hash --json`, `edit --json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from requant.cli.documents.shared import Document, OutputFile, Real


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
    back: Annotated[list[str], "classes of the folder that it and a text model become (`--with-mmproj`)"]


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
