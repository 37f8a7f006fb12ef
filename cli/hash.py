"""`requant hash`: checksums of a model's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, paths
from requant.cli.saying import say_document
from requant.cli.stages import byte_bar
from requant.cli.terminal import say
from requant.errors import VerifyError
from requant.printable import printable

if TYPE_CHECKING:
    from requant.operations.hashing import Checksum
    from requant.operations.manifest import Manifest

#: What `--all` means to llama-gguf-hash.
_ALL: Final = ("xxh64", "sha1", "sha256")

_EXAMPLES: Final = """\b
Examples:
  requant hash model.gguf > model.manifest
  requant hash model.gguf --verify model.manifest
  requant hash ./folder --sha256 --no-layer
  requant hash model.gguf --uuid
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.option("--xxh64", is_flag=True, help="xxHash of 64 bits (requant[hash]).")
@click.option("--xxh3", is_flag=True, help="XXH3 of 64 bits (requant[hash]).")
@click.option("--sha1", is_flag=True, help="SHA-1.")
@click.option("--sha256", is_flag=True, help="SHA-256, the default.")
@click.option("--blake3", is_flag=True, help="BLAKE3 (requant[hash]).")
@click.option("--uuid", is_flag=True, help="llama.cpp's UUID of the whole model.")
@click.option("--all", "everything", is_flag=True, help=f"{', '.join(_ALL)}.")
@click.option("--no-layer", is_flag=True, help="Of the whole model only.")
@click.option(
    "--verify",
    "--check",
    "-c",
    "manifest_file",
    type=paths.FILE,
    metavar="MANIFEST",
    help="Compare with what was printed once; exit code 5 if anything differs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; with --verify, only what differs.")
def hash(
    source: str,
    everything: bool,
    no_layer: bool,
    manifest_file: Path | None,
    as_json: bool,
    quiet: bool,
    **algorithms: bool,
) -> None:
    """Print checksums of SOURCE: of the bytes of every tensor, and of all of them.

    Metadata are no part of it, so that a model is still known whose chat template was mended. Lines, digests and
    manifests are those of llama-gguf-hash, which reads them.
    """
    from requant import formats
    from requant.operations.hashing import ALGORITHMS, checksums
    from requant.operations.manifest import read_manifest

    path = options.located(source, quiet)
    _, model = formats.opened(path, as_stored=True)
    manifest = (
        None if manifest_file is None else read_manifest(manifest_file, path.name, options.read_text(manifest_file))
    )
    asked = tuple(name for name in ALGORITHMS if algorithms[name] or (everything and name in _ALL))
    chosen = asked or (manifest.algorithms[:1] if manifest else ("sha256",))
    if manifest and not set(chosen) & set(manifest.algorithms):
        raise VerifyError(
            f"{manifest.path} has no {' or '.join(chosen)}", hint=f"it has {', '.join(manifest.algorithms)}"
        )
    found: list[Checksum] = []
    with byte_bar(sum(tensor.nbytes for tensor in model.tensors), "reading", quiet) as bar:
        for one in checksums(model, chosen, layers=not no_layer, told=bar.update):
            found.append(one)
            verdict = manifest.verdict(one) if manifest else ""
            if not as_json and not (quiet and verdict == "Ok"):
                bar.clear()
                say(line_of(one, source, verdict))
    left = manifest.left(found, chosen) if manifest and not no_layer else []
    for one in left if not as_json else []:
        say(line_of(one, source, "Missing"))
    if as_json:
        say_document("hash", _document(found, manifest, left))
    if manifest:
        refuse_differences(manifest, found, left, as_json=as_json)


def line_of(one: Checksum, source: str, verdict: str = "") -> str:
    """A line of a manifest."""
    name = printable(source if one.tensor is None else f"{source}:{one.tensor}", None)
    return f"{one.algorithm:<8}  {one.digest}  {name}" + (f"  -  {verdict}" if verdict else "")


def _document(found: list[Checksum], manifest: Manifest | None, left: list[Checksum]) -> dict[str, object]:
    rows = [(one, manifest.verdict(one) if manifest else None) for one in found]
    rows += [(one, "Missing") for one in left]
    return {
        "checksums": [
            {"algorithm": one.algorithm, "digest": one.digest, "tensor": one.tensor, "verdict": verdict}
            for one, verdict in rows
        ]
    }


def refuse_differences(manifest: Manifest, found: list[Checksum], left: list[Checksum], *, as_json: bool) -> None:
    """Raises `VerifyError` if the model is not the one of the manifest; what the manifest lacks is no difference."""
    wrong = [one for one in found if manifest.verdict(one) == "Mismatch"]
    if not wrong and not left:
        if not as_json:
            say(f"{manifest.path}: all {sum(manifest.verdict(one) == 'Ok' for one in found)} checksums agree")
        return
    tensors = [one.tensor for one in (*wrong, *left) if one.tensor is not None]
    named = f"{printable(tensors[0])}" + (f" and {len(set(tensors)) - 1} more" if len(set(tensors)) > 1 else "")
    raise VerifyError(
        f"{manifest.path}: the model differs" + (f" in {named}" if tensors else " somewhere"),
        hint="" if tensors else "without --no-layer the tensor is named, if the manifest has tensors",
    )
