"""Models by their name on the Hugging Face Hub, downloaded into the cache that its own library keeps.

    owner/name                      a folder of safetensors (or .bin) with config and tokenizer, or a lone GGUF
    owner/name/model-Q4_K_M.gguf    one file, with its siblings if it is split
    owner/name:Q4_K_M               the GGUF of that type, as llama.cpp's -hf and Ollama take it
    owner/name@revision[/file]      of a branch, a tag or a commit
    https://huggingface.co/…        what a browser shows for any of these; hf://owner/name is the same

What is in the cache already is not fetched again, and serves when the Hub is out of reach. Commands that stream fetch
headers first, and what else they need when they need it (`requant.glimpse`), also from other servers
(`requant.remote_model`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from requant.errors import Error, PlanError
from requant.formats.gguf.shards import series_of
from requant.formats.safetensors.folder import MODULE, SUBFOLDER, WEIGHTS

if TYPE_CHECKING:
    from requant.glimpse import Glimpse

_NAME: Final = re.compile(
    r"(?:(?:https?://)?(?:huggingface|hf)\.co/|hf://)?(?!(?:huggingface|hf)\.co/)(?P<repo>\w[\w.-]*/\w[\w.-]*)"
    r"(?::(?P<type>\w+)|@(?P<revision>[^/]+)|/(?:blob|resolve|tree)/(?P<branch>[^/]+))?(?:/(?P<file>[^?]+))?(?:\?.*)?"
)
#: What a model folder has besides weights: config, tokenizer, chat template, model card.
_BESIDE: Final = frozenset({".json", ".txt", ".model", ".jinja", ".md"})
#: Seconds to wait for the Hub to answer at all.
_PATIENCE: Final = 10.0
#: Files named in a message, at most.
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository of the Hub, or one file in it.

    revision: a branch, tag or commit; None is the main branch. type: what the name of the file has in it.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    type: str | None = None

    @classmethod
    def named(cls, text: str) -> HubModel | None:
        """What a name means, or None if no model of the Hub can be called so.

        >>> HubModel.named("org/model@v1/model-Q8_0.gguf")
        HubModel(repo='org/model', revision='v1', file='model-Q8_0.gguf', type=None)
        >>> HubModel.named("https://huggingface.co/org/model/tree/main")
        HubModel(repo='org/model', revision='main', file=None, type=None)
        >>> HubModel.named("./folder/model") is None
        True
        """
        match = _NAME.fullmatch(text.rstrip("/"))
        return match and cls(match["repo"], match["revision"] or match["branch"], match["file"], match["type"])

    def fetch(self) -> Path:
        """The model's folder or file in the cache, after downloading what is missing of it.

        Raises `PlanError` if the Hub has no such model, lets nobody see it, or cannot be reached and the cache has
        nothing either.
        """
        return self._asked(self._whole)

    def glimpse(self, told: Callable[[Glimpse], None]) -> Path:
        """The same with headers alone, where that is possible and the cache has not all of it already.

        told: called with what was fetched. Raises as `fetch` does, and `FormatError` for headers that are none.
        """

        def headers(commit: str, wanted: Sequence[str], file: str | None) -> Path:
            from huggingface_hub import try_to_load_from_cache

            weights = [name for name in wanted if PurePosixPath(name).suffix in WEIGHTS]
            here = [isinstance(try_to_load_from_cache(self.repo, name, revision=commit), str) for name in weights]
            if all(here) or not all(name.endswith((".gguf", ".safetensors")) for name in weights):
                return self._whole(commit, wanted, file)
            from requant.glimpse import glimpse

            beside = [name for name in wanted if name not in weights]
            found = glimpse(self.repo, commit, wanted, file, lambda: self._whole(commit, beside, None))
            told(found)
            return found.path

        return self._asked(headers)

    def _whole(self, commit: str, wanted: Sequence[str], file: str | None) -> Path:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(self.repo, revision=self.revision, allow_patterns=[escape(n) for n in wanted])
        return Path(folder, file) if file else Path(folder)

    def _asked(self, then: Callable[[str, Sequence[str], str | None], Path]) -> Path:
        """What `then` makes of a commit, the files that are wanted of it, and the one to open."""
        from huggingface_hub import HfApi, errors

        try:
            info = HfApi().model_info(self.repo, revision=self.revision, timeout=_PATIENCE)
            wanted, file = choose(self, [entry.rfilename for entry in info.siblings or []])
            return then(info.sha or self.revision or "main", wanted, file)
        except errors.GatedRepoError:
            hint = f"accept its terms on https://huggingface.co/{self.repo}, then `hf auth login`"
            raise PlanError(
                f"{self.repo}: the Hub gives this model only to those who accept its terms", hint=hint
            ) from None
        except errors.RepositoryNotFoundError:
            hint = "a local path? then it is mistyped; a private model? then `hf auth login`"
            raise PlanError(f"{self.repo}: neither a file or folder here nor a model on the Hub", hint=hint) from None
        except errors.RevisionNotFoundError:
            raise PlanError(f"{self.repo}: the Hub knows no revision {self.revision!r} of it") from None
        except Error:
            raise
        except Exception as error:  # whatever its transport raises: it was requests, then httpx, then httpx2
            return self._cached(error)

    def _cached(self, why: Exception) -> Path:
        """What an earlier download left; it may be of another day, which is what a cache is for.

        Where that is: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
        """
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE, f"models--{self.repo.replace('/', '--')}")
        reference = cache / "refs" / (self.revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else self.revision or ""
        folder = cache / "snapshots" / commit
        if not commit or not folder.is_dir():
            reason = (str(why).strip() or type(why).__name__).splitlines()[0]
            message = f"{self.repo}: no file or folder here, not in the cache, and the Hub cannot be reached: {reason}"
            raise PlanError(message, hint="a mistyped path? or try again when the network is back")
        _, file = choose(self, [path.relative_to(folder).as_posix() for path in folder.rglob("*")])
        return folder / file if file else folder


def choose(model: HubModel, names: Sequence[str]) -> tuple[list[str], str | None]:
    """Which of a repository's files to download, and the one to open if it is not the folder.

    >>> choose(HubModel("org/model"), ["README.md", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"])
    (['model.safetensors', 'README.md'], None)

    Raises `PlanError` if there is nothing to convert, or more than one thing.
    """
    ggufs = [name for name in names if name.endswith(".gguf")]
    if model.file is not None:
        if model.file not in names:
            raise PlanError(f"{model.repo}: there is no file {model.file!r}", hint=_one_of(model, ggufs))
        return _with_siblings(model.file, names), model.file
    if model.type is not None:
        return _the_one(model, [name for name in ggufs if _is_of_type(name, model.type)] or ggufs, names)
    here = [name for name in names if "/" not in name]
    tensors = [name for name in here if name.endswith(".safetensors")]
    # Mistral's folders hold the same weights twice, once as consolidated*.safetensors under its own names.
    weights = (
        [name for name in tensors if not name.startswith("consolidated")]
        or tensors
        or [name for name in here if name.startswith("pytorch_model") and name.endswith(".bin")]
        or [name for name in here if name.startswith("adapter_model") and name.endswith(".bin")]
    )
    if weights:
        return weights + [name for name in names if _is_beside(PurePosixPath(name))], None
    if not ggufs:
        raise PlanError(f"{model.repo}: there are neither safetensors nor GGUF files in it")
    return _the_one(model, ggufs, names)


def _the_one(model: HubModel, ggufs: Sequence[str], names: Sequence[str]) -> tuple[list[str], str]:
    """The one GGUF there is; raises `PlanError` if there are several, or none of the type asked for."""
    models = sorted({_with_siblings(name, names)[0] for name in ggufs})
    if len(models) != 1 or (model.type is not None and not _is_of_type(models[0], model.type)):
        which = "" if model.type is None else f", and not one of type {model.type}"
        raise PlanError(f"{model.repo}: {len(models)} GGUF models are in it{which}", hint=_one_of(model, models))
    return _with_siblings(models[0], names), models[0]


def _is_of_type(file: str, label: str) -> bool:
    """Whether a name has the type in it, and not a longer one: `Q4_K` is not `Q4_K_M`. Projectors are no models."""
    return (
        re.search(rf"(?<![A-Za-z0-9]){re.escape(label)}(?![A-Za-z0-9_])", file, re.IGNORECASE) is not None
        and "mmproj" not in file
    )


def _is_beside(file: PurePosixPath) -> bool:
    """Whether a file belongs to a model folder: `1_Pooling/config.json` says how a sentence becomes one vector."""
    inside = not file.parent.name or SUBFOLDER.fullmatch(str(file.parent)) is not None
    return inside and (file.suffix in _BESIDE or MODULE.fullmatch(str(file)) is not None)


def _with_siblings(file: str, names: Sequence[str]) -> list[str]:
    """A file and, if it is one part of a split model, all parts."""
    series = series_of(file)
    return [file] if series is None else sorted(name for name in names if series_of(name) == series)


def _one_of(model: HubModel, files: Sequence[str]) -> str:
    shown = ", ".join(f"{model.repo}/{file}" for file in files[:_SHOWN])
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"name one of {shown}{more}" if files else ""
