"""An authority of a test's own, and certificates that it signs, made by openssl's command."""

import subprocess
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """`certificate` is what those trust who trust it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        _openssl("req", "-x509", *_CURVE, "-subj", "/CN=test authority", "-keyout", self._key, "-out", self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for this host name, and its key."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-addext", f"subjectAltName=DNS:{name}")
        _openssl("req", "-x509", *_CURVE, "-subj", f"/CN={name}", *signed, "-keyout", key, "-out", certificate)
        return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
