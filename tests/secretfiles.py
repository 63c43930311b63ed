"""Files that nobody but their owner may read, as secrets must be kept."""

from pathlib import Path


def write_secret(file: str | Path, text: str) -> Path:
    written = Path(file)
    written.touch(0o600)
    written.write_text(text)
    return written
