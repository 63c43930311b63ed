"""How commands talk to a gateway that runs: where it is, with which key, and what to say when it is not there.

Called by the commands beside it. Invariant: whatever goes wrong is one line that names the address and what to do.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from router.config import DEFAULT_HOST, DEFAULT_PORT
from router.errors import CommandError

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
URL_VARIABLE, KEY_VARIABLE = "CORRAL_URL", "CORRAL_API_KEY"
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every command of a running gateway has."""
    made = argparse.ArgumentParser(prog=f"corral {name}", description=description, allow_abbrev=False)
    made.add_argument("--url", default=os.environ.get(URL_VARIABLE, DEFAULT_URL), help=f"the gateway ({DEFAULT_URL})")
    made.add_argument("--api-key", default=os.environ.get(KEY_VARIABLE), help=f"its key; better in ${KEY_VARIABLE}")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def run(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """The exit status of a command; its errors become one line."""
    try:
        command(arguments)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


class Gateway:
    """A gateway somewhere else."""

    def __init__(self, given: argparse.Namespace) -> None:
        headers = {"Authorization": f"Bearer {given.api_key}"} if given.api_key else {}
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        self._url = given.url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=timeout, trust_env=False)

    def get(self, path: str, **query: Any) -> httpx.Response:
        """An answer with status 200. Raises CommandError."""
        with self._explained():
            answer = self._client.get(self._url + path, params=query)
            self._check(answer)
            return answer

    def events(self, path: str, **query: Any) -> Iterator[str]:
        """The data of a stream's events, as they come, until the gateway ends it."""
        with self._explained(), self._client.stream("GET", self._url + path, params=query) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
            self._check(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield line.removeprefix("data: ")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Failures of the connection as CommandErrors."""
        try:
            yield
        except httpx.ConnectError:
            raise CommandError(
                f"no gateway answers at {self._url}; start one with `corral serve`, or give --url or ${URL_VARIABLE}"
            ) from None
        except httpx.InvalidURL as error:
            raise CommandError(f"--url {self._url}: {error}", 2) from None
        except httpx.HTTPError as error:
            raise CommandError(f"{self._url}: {str(error) or type(error).__name__}") from None

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.OK:
            return
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise CommandError(f"{self._url} asks for a key: give --api-key, or ${KEY_VARIABLE}")
        raise CommandError(f"{self._url}: {_message(answer)}")


def _message(answer: httpx.Response) -> str:
    """The gateway's own words, if it is one."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {answer.status_code} ({answer.url.path} is not known there: is it a Corral gateway?)"
