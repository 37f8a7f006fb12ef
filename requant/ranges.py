"""Files on servers, read by ranges of bytes: over HTTP, and from object stores.

A server may cut an answer short, stall, ask to come later, redirect, know no ranges, answer with a page for people, or
have another file by now. What passes is tried again, after a pause that doubles; what does not is an `Error` that names
the file. HTTP goes through the client of huggingface_hub, which is always installed and knows the Hub's tokens and the
environment's proxies; object stores through obstore (`requant[remote]`). `benchmarks/ranges.py` compares them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from requant.errors import Error, FormatError, PlanError

#: Times that a range is asked for before the server is given up, and the first pause between two, in seconds.
TRIES: Final = 6
PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Seconds without a byte after which an answer is given up; the variable is huggingface_hub's own.
_PATIENCE: Final = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "10"))
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REASONS: Final = {
    401: "it needs a login",
    403: "the server does not allow it",
    404: "there is no such file",
    410: "there is no such file any more",
}


class Missing(PlanError):
    """There is no such file, or the server does not say: object stores forbid what they have not."""


class Again(Exception):
    """What may pass. after: seconds the server asks to wait, or 0."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes of a file, how long the whole of it is, and its tag: another one is another file. Empty: not said."""

    data: bytes
    nbytes: int
    tag: str


class Transport(Protocol):
    """How a range is had."""

    def fetch(self, start: int, stop: int) -> Answer:
        """The bytes `[start, stop)`, or to the end. Raises `Again` for what may pass, and `Error`."""
        ...


@dataclass(frozen=True, slots=True)
class Http:
    """A file by its address. headers: of every request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def fetch(self, start: int, stop: int) -> Answer:
        """By a request with a Range."""
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined,unused-ignore]

        headers = {**self.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        session: Any = get_session()
        try:
            response = session.get(self.url, headers=headers, timeout=_PATIENCE)
        except Exception as error:  # whatever its transport raises: it was requests, then httpx, then httpx2
            raise Again(_first_line(error)) from None
        return self._answer(response, start, stop)

    def _answer(self, response: Any, start: int, stop: int) -> Answer:
        status, said = response.status_code, response.headers
        if status in _PASSING:
            after = said.get("Retry-After", "")
            raise Again(f"the server answers {status}", float(after) if after.isdigit() else 0.0)
        if status not in (200, 206):
            hint = "`hf auth login`, or accept the model's terms" if status in (401, 403) else "is the address right?"
            refusal = Missing if status in (403, 404, 410) else PlanError
            raise refusal(f"{self.url}: {_REASONS.get(status, f'the server answers {status}')}", hint=hint)
        if said.get("Content-Type", "").startswith("text/html"):
            raise PlanError(f"{self.url}: the server answers with a web page", hint="is this the address of the file?")
        data: bytes = response.content
        tag = said.get("ETag", "")
        if status == 200:  # all of it
            if start == 0 and len(data) <= stop:
                return Answer(data, len(data), tag)
            raise PlanError(
                f"{self.url}: the server does not give parts of files", hint="download it, and name the copy"
            )
        place, _, total = said.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if not total.isdigit() or place.partition("-")[0] != str(start):
            raise PlanError(f"{self.url}: the server gives another part than the one asked for: {place or 'unsaid'}")
        if len(data) < min(stop, int(total)) - start:
            raise Again(f"the answer ends after {len(data)} of {min(stop, int(total)) - start} bytes")
        return Answer(data, int(total), tag)


@dataclass(frozen=True, slots=True)
class Store:
    """A file of an object store, by an address such as s3://bucket/key; credentials and endpoint as the environment
    has them. root: a store of obstore's."""

    url: str
    root: Any
    key: str

    @classmethod
    def at(cls, url: str) -> Store:
        """Raises `PlanError` without obstore, or for a name that is none."""
        store, key = store_of(url)
        return cls(url, store, key)

    def fetch(self, start: int, stop: int) -> Answer:
        """By obstore, which tries again by itself, too."""
        import obstore
        from obstore import exceptions

        try:
            found = obstore.get(self.root, self.key, options={"range": (start, stop)})
            data = bytes(found.bytes())
        except FileNotFoundError:
            raise Missing(f"{self.url}: there is no such file") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            hint = "credentials are taken from the environment, such as AWS_PROFILE or GOOGLE_APPLICATION_CREDENTIALS"
            raise PlanError(f"{self.url}: {_first_line(error)}", hint=hint) from None
        except Exception as error:
            raise Again(_first_line(error)) from None
        return Answer(data, found.meta["size"], found.meta["e_tag"] or "")


def store_of(url: str) -> tuple[Any, str]:
    """The bucket of an address, and the key in it."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise PlanError(f"{url}: object stores need obstore", hint="pip install 'requant[remote]'") from None
    parts = urlsplit(url)
    try:
        return from_url(f"{parts.scheme}://{parts.netloc}"), parts.path.strip("/")
    except Exception as error:
        raise PlanError(f"{url}: {_first_line(error)}") from None


@dataclass(slots=True)
class RemoteFile:
    """A file that is read by ranges. sha256: of all of it, where it is known. fetched: bytes that came.

    nbytes, tag: as the first answer said, if not known before; a later one that says otherwise is a `FormatError`.
    """

    name: str
    transport: Transport
    nbytes: int = -1
    sha256: str | None = None
    tag: str = ""
    fetched: int = 0
    retried: int = 0
    wait: Callable[[float], object] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes `[start, stop)`, or up to the end of the file. Raises `PlanError` when the server is given up."""
        for attempt in range(TRIES):
            try:
                answer = self.transport.fetch(start, stop)
                break
            except Again as reason:
                if attempt == TRIES - 1:
                    raise PlanError(
                        f"{self.name}: {reason}, {TRIES} times", hint="try again later; --resume goes on from here"
                    ) from None
                with self._lock:
                    self.retried += 1
                self.wait(min(max(reason.after, PAUSE * 2**attempt), _LONGEST_PAUSE))
            except Error:
                raise
        with self._lock:
            self.fetched += len(answer.data)
            self.nbytes = answer.nbytes if self.nbytes < 0 else self.nbytes
            self.tag = self.tag or answer.tag
        self._check(answer, start, stop)
        return answer.data

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on."""
        out[:] = self.read(start, start + len(out))

    def _check(self, answer: Answer, start: int, stop: int) -> None:
        if answer.nbytes != self.nbytes or (answer.tag and answer.tag != self.tag):
            what = f"it had {self.nbytes} bytes and has {answer.nbytes}" if answer.nbytes != self.nbytes else "its tag"
            raise FormatError(self.name, f"the file on the server has changed since it was opened: {what}")
        if len(answer.data) != max(min(stop, self.nbytes) - start, 0):
            raise PlanError(f"{self.name}: the server gives {len(answer.data)} bytes for {stop - start}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
