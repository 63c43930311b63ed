"""Chooses the files of a Hugging Face repository that make up one quantised model.

Called by pull.py. choose() is pure. Invariant: what was asked for and is not there is an error, never something else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from router.downloads.download import TIMEOUT
from router.errors import CommandError

ENDPOINT = "https://huggingface.co"
DEFAULT_QUANT = "Q4_K_M"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_QUANT = re.compile(r"(?i)(?:^|[-._/])((?:IQ|Q|TQ)\d\w*|BF16|F16|F32|MXFP4\w*)(?=[-./]|$)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, with its checksum if the repository tells."""

    path: str
    num_bytes: int | None
    sha256: str | None


def parse_source(source: str) -> tuple[str, str | None]:
    """ "hf:USER/REPO[:QUANT]" as (USER/REPO, QUANT or None)."""
    repository, _, quant = source.removeprefix("hf:").partition(":")
    parts = repository.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise CommandError(f"{source}: hf:USER/REPO or hf:USER/REPO:QUANT is what is needed", 2)
    return repository, quant or None


def list_files(
    client: httpx.Client, repository: str, headers: Mapping[str, str], endpoint: str = ENDPOINT
) -> list[RemoteFile]:
    """The repository's GGUF files. Raises CommandError."""
    url = f"{endpoint}/api/models/{repository}"
    try:
        reply = client.get(url, params={"blobs": "true"}, headers=dict(headers), follow_redirects=True, timeout=TIMEOUT)
    except httpx.TransportError as error:
        host = httpx.URL(endpoint).host
        raise CommandError(
            f"cannot reach {host} ({error}); the models of the catalogue come from the Python package index instead"
        ) from None
    if reply.status_code in (401, 403, 404):
        raise CommandError(f"{repository}: no such repository, or it needs a token in HF_TOKEN")
    if reply.status_code != 200:
        raise CommandError(f"{url}: {reply.status_code} {reply.reason_phrase}")
    return [_remote_file(found) for found in reply.json().get("siblings", ()) if found["rfilename"].endswith(".gguf")]


def choose(files: Sequence[RemoteFile], quant: str | None, name: str | None = None) -> list[RemoteFile]:
    """The file, or the parts of the split file in order. Without a quant: DEFAULT_QUANT, else the first there is.

    `name`: the file itself, whatever its quant, by its path or the end of it.
    """
    models = sorted((file for file in files if not _is_companion(file.path)), key=lambda file: file.path)
    if not models:
        raise CommandError("the repository holds no GGUF model")
    if name is not None:
        named = [file for file in models if f"/{file.path}".endswith(f"/{name}")]
        if not named:
            raise CommandError(f"the repository has no file {name} (it has {', '.join(file.path for file in models)})")
        return _with_parts(named[0], models)
    wanted = [file for file in models if _quant(file.path) == (quant or DEFAULT_QUANT).upper()]
    if not wanted and quant:
        offered = sorted({found for file in models if (found := _quant(file.path))})
        raise CommandError(f"the repository has no {quant} (it has {', '.join(offered) or models[0].path})")
    return _with_parts((wanted or models)[0], models)


def file_url(repository: str, file: RemoteFile, endpoint: str = ENDPOINT) -> str:
    return f"{endpoint}/{repository}/resolve/main/{file.path}"


def _remote_file(found: Mapping[str, Any]) -> RemoteFile:
    return RemoteFile(found["rfilename"], found.get("size"), (found.get("lfs") or {}).get("sha256"))


def _is_companion(path: str) -> bool:
    """A file that goes with a model but is none."""
    name = path.rsplit("/", 1)[-1].lower()
    return name.startswith(("mmproj", "imatrix")) or "-mmproj" in name


def _quant(path: str) -> str | None:
    """The last quant type in the file's name."""
    found = _QUANT.findall(_SPLIT.sub("", path).removesuffix(".gguf"))
    return found[-1].upper() if found else None


def _with_parts(file: RemoteFile, models: Sequence[RemoteFile]) -> list[RemoteFile]:
    split = _SPLIT.search(file.path)
    if split is None:
        return [file]
    stem = file.path[: split.start()]
    parts = [other for other in models if other.path.startswith(stem) and _SPLIT.fullmatch(other.path[len(stem) :])]
    if len(parts) != int(split[2]):
        raise CommandError(f"the repository holds {len(parts)} of the {int(split[2])} parts of {stem}")
    return parts
