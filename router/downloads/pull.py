"""`corral pull`: fetches a model into the cache folder, once.

Run by __main__.py, and by serve.py for a model that is to be fetched first. The last line on standard output is the
path of the file, everything else goes to standard error.
Invariant: a path that was printed is a complete, checked file.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from router.downloads.catalogue import CATALOGUE, Entry
from router.downloads.download import fetch_url
from router.downloads.huggingface import ENDPOINT, choose, file_url, list_files, parse_source
from router.downloads.modelstore import ModelStore, cache_folder
from router.downloads.wheels import fetch_parts
from router.errors import CommandError

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="corral pull", description="Fetches a model and prints the path of its file.")
    parser.add_argument("source", help=f"{' | '.join(CATALOGUE)} | hf:USER/REPO[:QUANT] | URL")
    parser.add_argument("--sha256", help="what the file of a URL must be")
    given = parser.parse_args(arguments)
    try:
        print(fetch(given.source, given.sha256))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was fetched is kept", file=sys.stderr)
        return 130
    return 0


def fetch(source: str, sha256: str | None = None) -> Path:
    """The file of a model, fetched if it is not there yet. Raises CommandError."""
    store = ModelStore(cache_folder(os.environ) / "models")
    with Puller(store) as puller:
        if source.startswith("hf:"):
            return puller.hugging_face(source)
        if source.startswith(("https://", "http://")):
            return puller.url(source, _url_file_name(source), sha256)
        if source in CATALOGUE:
            return puller.catalogue(source, CATALOGUE[source])
    raise CommandError(_unknown(source), 2)


class Puller:
    """Fetches into one store, with a progress bar."""

    def __init__(
        self, store: ModelStore, endpoint: str = ENDPOINT, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._token = environment.get("HF_TOKEN", "")
        self._client = httpx.Client()
        self._console = Console(stderr=True, highlight=False)

    def __enter__(self) -> "Puller":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def catalogue(self, name: str, entry: Entry) -> Path:
        file, source = entry.file_name, f"the catalogue ({name})"
        with self._store.locked(file, lambda: self._say(f"another process is fetching {name}; waiting")):
            if self._store.has(file, source, entry.sha256):
                return self._store.path(file)
            with self._bar(file) as bar:
                bar.set(0, entry.num_bytes)
                fetch_parts(entry.parts, self._store.partial(file), lambda done: bar.set(done, entry.num_bytes))
            return self._store.accept(file, source, entry.sha256)

    def hugging_face(self, source: str) -> Path:
        """All parts of a split model; the path is the first's."""
        repository, quant = parse_source(source)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        chosen = choose(list_files(self._client, repository, headers, self._endpoint), quant)
        paths = []
        for file in chosen:
            name = f"{repository.replace('/', '--')}--{file.path.rsplit('/', 1)[-1]}"
            paths.append(self.url(file_url(repository, file, self._endpoint), name, file.sha256, headers))
        return paths[0]

    def url(self, url: str, name: str, sha256: str | None, headers: Mapping[str, str] | None = None) -> Path:
        with self._store.locked(name, lambda: self._say(f"another process is fetching {name}; waiting")):
            if self._store.has(name, url, sha256):
                return self._store.path(name)
            with self._bar(name) as bar:
                fetch_url(self._client, url, self._store.partial(name), headers or {}, bar.set)
            return self._store.accept(name, url, sha256)

    def _bar(self, name: str) -> "_Bar":
        if not self._console.is_terminal:
            self._say(f"fetching {name}")
        return _Bar(name, self._console)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class _Bar:
    """A progress bar for one file; nothing where there is no terminal."""

    def __init__(self, name: str, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def set(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done if total is None else min(done, total), total=total)


def _url_file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not _FILE_NAME.fullmatch(name):
        raise CommandError(f"{url}: its path must end in a file name of letters, digits, '.', '_' and '-'", 2)
    return name


def _unknown(source: str) -> str:
    nearest = difflib.get_close_matches(source, CATALOGUE, n=1, cutoff=0.4)
    guess = f"; did you mean '{nearest[0]}'?" if nearest else ""
    return f"no model '{source}' in the catalogue ({', '.join(CATALOGUE)}){guess}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
