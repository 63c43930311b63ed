import asyncio
import os
import signal
import subprocess
import sys

import psutil
import pytest

from router.supervision.process import MAX_LINE_BYTES, Child, adopt_orphans
from tests.router.mocks import until

pytestmark = pytest.mark.anyio


async def spawn(program: str, lines: list[str]) -> Child:
    return await Child.spawn([sys.executable, "-c", program], os.environ, lines.append)


async def test_every_line_is_heard_even_those_before_the_end() -> None:
    lines: list[str] = []
    child = await spawn("import sys; print('out'); print('error', file=sys.stderr); print('no end', end='')", lines)
    assert await child.wait() == 0
    assert await child.stop(0) == 0
    assert sorted(lines) == ["error", "no end", "out"]


async def test_an_endless_line_comes_in_pieces() -> None:
    lines: list[str] = []
    child = await spawn(f"print('x' * {10 * MAX_LINE_BYTES})", lines)
    await child.wait()
    await child.stop(0)
    assert "".join(lines) == "x" * 10 * MAX_LINE_BYTES
    assert max(map(len, lines)) <= 2 * MAX_LINE_BYTES


async def test_bytes_that_are_no_text_are_heard_as_replacements() -> None:
    lines: list[str] = []
    child = await spawn(r"import sys; sys.stdout.buffer.write(b'\xff\n')", lines)
    await child.wait()
    await child.stop(0)
    assert lines == ["\ufffd"]


async def test_stop_asks_first_and_kills_who_does_not_listen() -> None:
    lines: list[str] = []
    polite = await spawn("import signal, time; print('up', flush=True); time.sleep(60)", lines)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stubborn = await spawn(deaf, lines)
    await until(lambda: lines == ["up", "up"])
    assert await polite.stop(30) == -signal.SIGTERM
    assert await stubborn.stop(0.2) == -signal.SIGKILL


async def test_stop_takes_grandchildren_along_after_a_crash_and_reaps_them() -> None:
    assert adopt_orphans()
    lines: list[str] = []
    # The orphan holds no pipe of ours, and so much memory that its end takes the system longer than its parent's.
    program = """
import os, time
if pid := os.fork():
    os._exit(3)
held = bytearray(b"x") * (256 << 20)
print(os.getpid(), flush=True)
os.closerange(0, 3)
time.sleep(600)
"""
    child = await spawn(program, lines)
    assert await asyncio.wait_for(child.wait(), 20) == 3
    await until(lambda: bool(lines))
    assert psutil.pid_exists(int(lines[0]))
    assert await child.stop(0) == 3
    assert not psutil.pid_exists(int(lines[0]))


async def test_a_stopped_child_takes_no_exit_status_from_others() -> None:
    assert adopt_orphans()
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(5)")
    other = subprocess.Popen([sys.executable, "-c", "raise SystemExit(6)"])  # noqa: ASYNC220 (it is not waited for)
    child = await spawn("import time; time.sleep(60)", [])
    await until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
    assert await child.stop(0) == -signal.SIGKILL
    assert (await ended.wait(), other.poll()) == (5, 6)


async def test_the_child_is_a_session_of_its_own_and_holds_no_other_file_of_ours() -> None:
    lines: list[str] = []
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = "import os, sys; print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd'))))"
    child = await spawn(program, lines)
    await child.wait()
    await child.stop(0)
    os.close(reading)
    os.close(writing)
    own, files = lines[0].split(" ", 1)
    assert own == "True"
    assert str(writing) not in files.strip("[]").split(", ")


async def test_a_command_that_does_not_exist_leaks_nothing() -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(OSError):
        await Child.spawn(["/absent/command"], os.environ, print)
    assert psutil.Process().num_fds() == before
