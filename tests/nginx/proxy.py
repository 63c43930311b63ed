"""Debian's nginx with the real configuration, before real gateways: its own ports, folder and certificate."""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.router.mocks import DEADLINE
from tests.router.test_serve import until

CONFIGURATION = Path(__file__).parents[2] / "nginx" / "corral.conf"
MAIN = """
daemon off;
master_process on;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/corral.conf;
}}
"""


@dataclass
class Proxy:
    """A running nginx."""

    process: subprocess.Popen[bytes]
    url: str
    plain_url: str
    folder: Path

    def reload(self) -> None:
        """Returns once the old processes take no more connections."""
        begun = self.errors().count("start worker process ")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.errors().count("start worker process ") >= begun + 2)

    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    def access(self) -> str:
        return (self.folder / "access.log").read_text()


def written_for(folder: Path, gateways: Sequence[str], port: int, plain_port: int) -> str:
    """The shipped configuration with other addresses and paths and more requests per second, and nothing else."""
    text = CONFIGURATION.read_text()
    servers = iter(re.findall(r"server 127\.0\.0\.1:\d+", text))
    for server, gateway in zip(servers, gateways, strict=True):
        text = text.replace(server, f"server {gateway}", 1)
    for old, new in (
        ("listen 443 ssl http2", f"listen 127.0.0.1:{port} ssl http2"),
        ("listen 80", f"listen 127.0.0.1:{plain_port}"),
        ("models.example.org", "localhost"),
        ("rate=100r/s", "rate=100000r/s"),
        ("/etc/nginx/", f"{folder}/"),
        ("/var/log/nginx/corral.log", f"{folder}/access.log"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def proxy(folder: Path, gateways: Sequence[str]) -> Iterator[Proxy]:
    """nginx before gateways, each as HOST:PORT."""
    port, plain_port = free_port(), free_port()
    certify(folder)
    (folder / "corral.conf").write_text(written_for(folder, gateways, port, plain_port))
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        running = Proxy(process, f"https://localhost:{port}", f"http://localhost:{plain_port}", folder)
        until(lambda: _answers(running))
        yield running
    finally:
        process.terminate()
        process.wait(DEADLINE)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def certify(folder: Path) -> None:
    """A certificate for localhost."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(folder / "corral.key")]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    command = ["openssl", "req", "-x509", *key, *name, "-out", str(folder / "corral.crt")]
    subprocess.run(command, check=True, capture_output=True)


def _answers(running: Proxy) -> bool:
    assert running.process.poll() is None, running.errors()
    try:
        httpx.get(running.plain_url, trust_env=False)
    except httpx.HTTPError:
        return False
    return True
