import os
import subprocess
from pathlib import Path

import pytest

from router.downloads.modelstore import ModelStore
from router.inquiries import answers
from router.options.flags import parse
from router.serve import main


def told(*flags: str) -> str:
    given = parse(flags, {})
    assert given.asks
    return answers(given)


def test_a_command_line_that_asks_nothing_is_not_answered() -> None:
    assert not parse(["-m", "a.gguf", "--metrics"], {}).asks


def test_asking_serves_nothing_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "-m", "nowhere.gguf"]) == 0
    assert capsys.readouterr().out.startswith("corral 0.")


def test_the_processor_is_the_device_with_its_memory() -> None:
    first, device = told("--list-devices").splitlines()
    assert first == "Available devices:"
    assert device.startswith("  CPU: ") and f"{len(os.sched_getaffinity(0))} cores" in device and "MiB free" in device


def test_fetched_models_are_listed_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path))
    assert told("-cl") == "number of models in cache: 0"
    store = ModelStore(tmp_path / "models")
    for name in ("b.gguf", "a.gguf", "gone.gguf"):
        store.partial(name).write_bytes(b"GGUF" + bytes(2 << 20))
        store.accept(name, f"http://host/{name}")
    store.path("gone.gguf").unlink()
    assert told("--cache-list").splitlines() == [
        "number of models in cache: 2",
        "   1. a.gguf  2 MiB, from http://host/a.gguf",
        "   2. b.gguf  2 MiB, from http://host/b.gguf",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("corral", "serve", "--list-d"), ["--list-devices"]),
        (("corral", "serve", "--port", "80", "--no-mm"), ["--no-mmap", "--no-mmproj", "--no-mmproj-auto",
                                                          "--no-mmproj-offload"]),
        (("corral", "serve", "-m", "--po"), []),
        (("corral", "ps", "--po"), []),
    ],
)  # fmt: skip
def test_bash_completes_the_flags_of_serve(line: tuple[str, ...], expected: list[str]) -> None:
    script = f"{told('--completion-bash')}\nCOMP_WORDS=({' '.join(line)}); COMP_CWORD={len(line) - 1}\n"
    run = f"{script}_corral_serve; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=True)
    assert (sorted(set(done.stdout.split())), done.stderr) == (expected, "")
