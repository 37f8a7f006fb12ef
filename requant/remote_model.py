"""Models by an address that is none of the Hub's: https://, s3://, gs:// and what else obstore knows.

https://host/path/model.gguf          one file; the parts of a split model by their names
https://host/path/folder              a folder of safetensors; its files are asked for by the names that such have
s3://bucket/path/model-Q4_K_M.gguf    the same in an object store, where folders are listed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from requant.errors import FormatError, PlanError
from requant.formats.gguf.shards import series_of
from requant.glimpse import WEIGHTS, Glimpse, look
from requant.hub import HubModel, choose
from requant.json_values import TOKENIZER, parse_json
from requant.ranges import Http, Missing, RemoteFile, Store, store_of

SCHEMES: Final = ("https", "http", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_SHARD: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)", re.DOTALL)
#: What a folder of safetensors may have, where nobody lists it.
_USUAL: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
    "hf_quant_config.json",
    "quantize_config.json",
    "README.md",
)
_INDEX: Final = "model.safetensors.index.json"
#: Bytes of the largest file that is fetched whole.
_SMALL: Final = 256 << 20


def is_address(text: str) -> bool:
    """Whether it is an address of this kind; the Hub's own are not."""
    return urlsplit(text).scheme in SCHEMES and HubModel.named(text) is None


def glimpse_at(url: str) -> Glimpse:
    """The headers of the model at an address. Raises `PlanError`, and `FormatError` for headers that are none."""
    address = url.split("?", 1)[0].rstrip("/")
    query = url[len(url.split("?", 1)[0]) :]
    name = PurePosixPath(urlsplit(address).path).name or "model"
    if PurePosixPath(name).suffix in WEIGHTS:
        base = address[: -len(name)]
        return look("model", {one: _file(base + one + query) for one in _series(name)}, {}, name)
    listed = list(_listed(address)) if urlsplit(url).scheme not in ("http", "https") else list(_probed(address, query))
    wanted, opened = choose(HubModel(address), listed)
    weights = {one: _file(f"{address}/{one}{query}") for one in wanted if PurePosixPath(one).suffix in WEIGHTS}
    if not weights:
        raise PlanError(
            f"{url}: only safetensors and GGUF are read from servers", hint="download it, and name the copy"
        )
    small = {one: partial(_fetch, _file(f"{address}/{one}{query}")) for one in wanted if one not in weights}
    return look(name, weights, small, opened)


def _file(url: str) -> RemoteFile:
    transport = Http(url) if urlsplit(url).scheme in ("http", "https") else Store.at(url.split("?", 1)[0])
    return RemoteFile(url.split("?", 1)[0], transport)  # what follows may be a signature


def _series(name: str) -> list[str]:
    """A file, or all parts of the split model that it belongs to."""
    match = _SHARD.fullmatch(name)
    if match is None or (name.endswith(".gguf") and series_of(name) is None):
        return [name]
    return [f"{match[1]}-{n:05}-of-{match[3]}{match[4]}" for n in range(1, int(match[3]) + 1)]


def _fetch(file: RemoteFile, path: Path) -> None:
    path.write_bytes(file.read(0, _SMALL))


def _listed(url: str) -> Iterator[str]:
    """The names in a folder of an object store."""
    import obstore

    store, prefix = store_of(url)
    try:
        for entries in obstore.list(store, prefix):
            for entry in entries:
                yield entry["path"].removeprefix(f"{prefix}/")
    except Exception as error:
        raise PlanError(f"{url}: {str(error).splitlines()[0]}") from None


def _probed(url: str, query: str) -> Iterator[str]:
    """The names that a folder of safetensors has and for which the server has something."""

    def there(name: str) -> bool:
        with suppress(Missing):
            RemoteFile(name, Http(f"{url}/{name}{query}")).read(0, 1)
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        names = ("model.safetensors", _INDEX, *_USUAL)
        found = [name for name, is_there in zip(names, pool.map(there, names), strict=True) if is_there]
    yield from found
    if _INDEX in found and "model.safetensors" not in found:
        text = _file(f"{url}/{_INDEX}{query}").read(0, _SMALL)
        try:
            shards = parse_json(text, Path(_INDEX), TOKENIZER).get("weight_map").object()
        except FormatError as error:
            raise PlanError(f"{url}/{_INDEX}: this is no index of safetensors ({error})") from None
        yield from sorted(set(map(str, shards.values())))
    elif not {"model.safetensors", _INDEX} & set(found):
        raise PlanError(f"{url}: there is no model.safetensors", hint="name the file, or the folder it lies in")
