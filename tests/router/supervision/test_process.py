import asyncio
import os
import signal
import sys

import psutil
import pytest

from router.supervision.process import MAX_LINE_BYTES, Child
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


async def test_stop_takes_grandchildren_along_after_a_crash() -> None:
    lines: list[str] = []
    grandchild = "import time; time.sleep(60)"
    program = f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
    child = await spawn(program + "print(p.pid, flush=True); os._exit(3)", lines)
    await until(lambda: bool(lines))
    orphan = int(lines[0])
    assert await asyncio.wait_for(child.wait(), 20) == 3
    assert psutil.pid_exists(orphan)
    assert await child.stop(0) == 3
    await until(lambda: not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE)


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
