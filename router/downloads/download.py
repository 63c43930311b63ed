"""Fetches a URL into a file, going on where an earlier attempt ended.

Called by pull.py. Beside the growing file lies FILE.json with the URL and the server's mark of this version; without
the same mark it begins anew. Invariant: bytes of two versions are never joined.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import orjson

from router.errors import CommandError

NUM_ATTEMPTS = 5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)

Advance = Callable[[int, int | None], None]


def fetch_url(client: httpx.Client, url: str, target: Path, headers: Mapping[str, str], advance: Advance) -> None:
    """Completes target; advance(bytes so far, bytes in all) may be told None for an unknown size.

    Goes on by itself after interruptions; raises CommandError when NUM_ATTEMPTS in a row brought nothing new.
    """
    attempts = 0
    while True:
        before = _size(target)
        try:
            _attempt(client, url, target, headers, advance)
            _mark_file(target).unlink(missing_ok=True)
            return
        except (httpx.TransportError, _Incomplete) as error:
            attempts = 0 if _size(target) > before else attempts + 1
            if attempts >= NUM_ATTEMPTS or (isinstance(error, httpx.ConnectError) and before == 0):
                raise CommandError(_interrupted(url, target, error)) from None


class _Incomplete(Exception):
    """The body ended too early."""


def _attempt(client: httpx.Client, url: str, target: Path, headers: Mapping[str, str], advance: Advance) -> None:
    have = _size(target)
    mark = _mark(target, url)
    asked = {**headers, "Accept-Encoding": "identity"}
    if have and mark:
        asked |= {"Range": f"bytes={have}-", "If-Range": mark}
    with client.stream("GET", url, headers=asked, follow_redirects=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:
            target.unlink()
            raise _Incomplete("the server has less than was fetched before")
        if response.status_code not in (200, 206):
            raise CommandError(f"{url}: {response.status_code} {response.reason_phrase}")
        begin = _begin(response) if response.status_code == 206 else 0
        if begin not in (0, have):
            raise CommandError(f"{url}: the server sent another range than it was asked for")
        length = response.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdigit() else None
        _write_mark(target, url, response.headers)
        _write_body(response, target, begin, total, advance)


def _write_body(response: httpx.Response, target: Path, begin: int, total: int | None, advance: Advance) -> None:
    done = begin
    with target.open("r+b" if begin else "wb") as file:
        file.seek(begin)
        for chunk in response.iter_raw():
            file.write(chunk)
            done += len(chunk)
            advance(done, total)
        file.truncate()
    if total is not None and done < total:
        raise _Incomplete(f"the connection ended after {done} of {total} bytes")


def _begin(response: httpx.Response) -> int:
    """Where a partial body starts: "bytes 100-199/200"."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _mark_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _mark(target: Path, url: str) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = orjson.loads(_mark_file(target).read_bytes())
        if known["url"] == url:
            return str(known["mark"])
    return None


def _write_mark(target: Path, url: str, headers: httpx.Headers) -> None:
    """Only a strong ETag or a date can tell two versions apart."""
    tag = headers.get("ETag", "")
    mark = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    if mark:
        _mark_file(target).write_bytes(orjson.dumps({"url": url, "mark": mark}))
    else:
        _mark_file(target).unlink(missing_ok=True)


def _size(target: Path) -> int:
    return target.stat().st_size if target.exists() else 0


def _interrupted(url: str, target: Path, error: Exception) -> str:
    host = httpx.URL(url).host
    if isinstance(error, httpx.ConnectError):
        return f"cannot reach {host} ({error}); the models of the catalogue come from the Python package index instead"
    kept = f"; {_size(target)} bytes are kept, the same command goes on from there" if _size(target) else ""
    return f"{host}: {error or type(error).__name__}{kept}"
