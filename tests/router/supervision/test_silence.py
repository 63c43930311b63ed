import fcntl
import os
import signal
import subprocess
import sys
import time
from itertools import chain, repeat
from pathlib import Path

import pytest

from router.supervision import silence
from tests.router.mocks import DEADLINE

pytestmark = pytest.mark.anyio


async def test_a_process_is_silent_once_its_sign_has_stayed_the_same_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "INTERVAL", 0.0)
    looks = []
    signs = chain(*(repeat(number, silence.MOST_LOOKS) for number in range(3)), repeat(3))

    def sign() -> int:
        looks.append(next(signs))
        return looks[-1]

    assert "neither a word nor a use of the processor" in await silence.silence(sign)
    assert looks.count(3) == silence.MOST_LOOKS + 1


def test_whoever_computes_gives_a_sign_and_whoever_is_unknown_is_never_silent() -> None:
    before = silence.computed(os.getpid())
    while silence.computed(os.getpid()) == before:
        pass
    assert silence.computed(-1) != silence.computed(-1)


def test_a_child_that_computes_is_a_sign_of_its_parent() -> None:
    before = silence.computed(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        seen = silence.computed(os.getpid())
        child.kill()
    assert isinstance(seen, list) and isinstance(before, list) and len(seen) == len(before) + 1


def test_whoever_waits_for_anothers_lock_is_not_silent(tmp_path: Path) -> None:
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)"
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen([sys.executable, "-c", program, held.name]) as waiting:
            deadline = time.monotonic() + DEADLINE
            while isinstance(silence.computed(waiting.pid), list) and time.monotonic() < deadline:
                pass
            assert not isinstance(silence.computed(waiting.pid), list)
            fcntl.flock(held, fcntl.LOCK_UN)


def test_a_stopped_process_stands_still_and_one_that_computes_does_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            begun = silence.activity(process.pid)
            assert begun is not None and silence.stood_still(begun, silence.activity(process.pid)) is False
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            stopped = silence.activity(process.pid)
            assert silence.stood_still(stopped, silence.activity(process.pid)) is True
        finally:
            process.kill()


def test_of_a_process_that_is_gone_nobody_knows_whether_it_stood_still() -> None:
    here = silence.activity(os.getpid())
    assert silence.stood_still(here, silence.activity(-1)) is None
    assert silence.stood_still(silence.activity(-1), here) is None
