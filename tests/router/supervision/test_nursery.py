"""The nursery's two sides together: real processes, forked from one that has loaded nothing."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from router.supervision import nursery, silence
from router.supervision.nursery import Nursery, NurseryEnded
from router.supervision.process import Child, adopt_orphans
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio

# What a worker does is the program that it is given. NURSERY tells it which nursery it comes from.
PROGRAM = """
import os, sys, threading, time
from pathlib import Path
from worker.nursery import tend
from worker.process import die_with

NURSERY = os.getpid()

def live(arguments):
    program, _, lifeline = arguments
    die_with(int(lifeline))
    exec(program)
    sys.stdout.flush()
    os._exit(0)

control, lifeline = int(sys.argv[-3]), int(sys.argv[-1])
os.close(lifeline)
tend(control, live)
"""
STAY = "print(NURSERY, flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def adopting() -> None:
    assert adopt_orphans()


def nursery_of(tmp_path: Path, before: str = "") -> Nursery:
    """`before` runs while it loads."""
    program = PROGRAM.replace("\ntend(", f"\n{before}\ntend(")
    return Nursery("m", [sys.executable, "-c", program], dict(os.environ, HELD=str(tmp_path / "go")))


HOLD = "while not Path(os.environ['HELD']).exists(): time.sleep(0.01)"


async def staying(nursery: Nursery) -> tuple[Child, int]:
    """A worker that stays, and the process that it was forked from."""
    lines: list[str] = []
    worker = await nursery.spawn([STAY], "token", lines.append)
    await until(lambda: bool(lines))
    return worker, int(lines[0])


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_a_worker_is_our_own_child_in_a_session_of_its_own(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path)
    lines: list[str] = []
    tell = "print(os.getppid(), os.getsid(0) == os.getpid(), flush=True)"
    worker = await forking.spawn([f"{tell}; print('last', file=sys.stderr); os._exit(3)"], "token", lines.append)
    assert await worker.wait() == 3
    assert await worker.stop(0) == 3
    assert lines == [f"{os.getpid()} True", "last"]
    assert not psutil.pid_exists(worker.pid)
    await forking.close()


async def test_a_killed_worker_leaves_its_sibling_and_the_nursery(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path)
    (killed, first), (stays, second) = await staying(forking), await staying(forking)
    os.kill(killed.pid, signal.SIGKILL)
    assert await killed.stop(0) == -signal.SIGKILL
    successor, third = await staying(forking)
    assert first == second == third
    assert alive(stays.pid) and alive(successor.pid)
    await stays.stop(0)
    await successor.stop(0)
    await forking.close()


async def test_workers_outlive_their_nursery_and_the_next_comes_from_another(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path)
    old, dead = await staying(forking)
    os.kill(dead, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(dead))
    new, other = await staying(forking)
    assert other != dead
    assert alive(old.pid)
    assert await old.stop(DEADLINE) == -signal.SIGTERM
    await new.stop(0)
    await forking.close()


async def test_each_worker_has_a_token_that_others_do_not_see(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path)
    lines: list[str] = []
    tell = "print(os.environ['CORRAL_WORKER_TOKEN'], flush=True); time.sleep(600)"
    workers = [await forking.spawn([tell], token, lines.append) for token in ("one", "two")]
    await until(lambda: len(lines) == 2)
    assert sorted(lines) == ["one", "two"]
    keeper, source = await staying(forking)
    assert "CORRAL_WORKER_TOKEN" not in psutil.Process(source).environ()
    for worker in (*workers, keeper):
        await worker.stop(0)
    await forking.close()


async def test_a_nursery_that_cannot_load_tells_all_who_wait_why(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path, "print('error: no such model', flush=True); os._exit(2)")
    heard: list[list[str]] = [[], []]
    ends = await asyncio.gather(
        *(forking.spawn([STAY], "token", lines.append) for lines in heard), return_exceptions=True
    )
    assert [end.returncode for end in ends if isinstance(end, NurseryEnded)] == [2, 2]
    assert heard == [["error: no such model"]] * 2


async def test_nothing_is_forked_beside_a_second_thread(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path, "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    lines: list[str] = []
    with pytest.raises(NurseryEnded):
        await forking.spawn([STAY], "token", lines.append)
    assert lines[-1].endswith("workers cannot be forked from a process with 2 threads")


async def test_whoever_waits_no_more_gets_no_worker_and_the_others_do(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path, HOLD)
    before = {child.pid for child in psutil.Process().children()}
    given_up = asyncio.create_task(forking.spawn([STAY], "token", print))
    waiting = asyncio.create_task(staying(forking))
    await until(lambda: len(psutil.Process().children()) > len(before))
    given_up.cancel()
    (tmp_path / "go").touch()
    worker, source = await waiting
    await until(lambda: {child.pid for child in psutil.Process().children()} - before == {worker.pid, source})
    await worker.stop(0)
    await forking.close()


async def test_a_nursery_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forking = nursery_of(tmp_path)
    worker, hanging = await staying(forking)
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(nursery, "_LONGEST_FORK", 0.2)
    successor, source = await staying(forking)
    assert source != hanging
    assert not psutil.pid_exists(hanging)
    assert alive(worker.pid)
    await worker.stop(0)
    await successor.stop(0)
    await forking.close()


async def test_a_nursery_that_stands_still_while_it_loads_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "INTERVAL", 0.02)
    monkeypatch.setattr(silence, "MOST_LOOKS", 5)
    forking = nursery_of(tmp_path, "print('loading', flush=True)\nos.kill(NURSERY, 19)")
    with pytest.raises(NurseryEnded, match="SIGKILL"):
        await asyncio.wait_for(forking.spawn([STAY], "token", print), DEADLINE)
    await forking.close()


@pytest.mark.parametrize("told", ["before it says so", "after it says so"])
async def test_nothing_is_left_of_a_nursery_that_dies_while_it_forks(tmp_path: Path, told: str) -> None:
    say = "say(*told), " if told.startswith("after") else ""
    dying = nursery_of(
        tmp_path,
        "import worker.nursery as side, signal; say = side._reply\n"
        f"side._reply = lambda *told: ({say}os.kill(os.getpid(), signal.SIGKILL))",
    )
    before = {child.pid for child in psutil.Process().children()}
    if say:
        worker = await dying.spawn([STAY], "token", print)
        assert await worker.wait() in (1, -signal.SIGKILL)
        await worker.stop(0)
    else:
        with pytest.raises(NurseryEnded):
            await dying.spawn([STAY], "token", print)
    await dying.close()
    assert {child.pid for child in psutil.Process().children()} <= before


async def test_a_killed_nursery_leaves_no_zombie_of_those_who_helped_it(tmp_path: Path) -> None:
    helper = "(bytearray(b'x') * (256 << 20), os.closerange(0, 3), (Path(os.environ['HELD'])).touch(), time.sleep(600))"
    forking = nursery_of(tmp_path, f"os.fork() or {helper}\n{HOLD}")
    before = {child.pid for child in psutil.Process().children()}
    worker, source = await staying(forking)
    assert len(psutil.Process(source).children()) == 1
    os.kill(source, signal.SIGKILL)
    await until(lambda: {child.pid for child in psutil.Process().children()} - before == {worker.pid})
    await worker.stop(0)
    await forking.close()


async def test_closing_ends_the_nursery_even_while_it_loads_and_no_worker(tmp_path: Path) -> None:
    forking, loading = nursery_of(tmp_path), nursery_of(tmp_path, HOLD)
    worker, source = await staying(forking)
    waiting = asyncio.create_task(loading.spawn([STAY], "token", print))
    await until(lambda: len(psutil.Process().children()) >= 3)
    await forking.close()
    await loading.close()
    with pytest.raises(NurseryEnded):
        await waiting
    assert not psutil.pid_exists(source)
    assert alive(worker.pid)
    await worker.stop(0)


async def test_a_second_close_waits_for_the_end_as_the_first_one_does(tmp_path: Path) -> None:
    large = "held = bytearray(b'x') * (256 << 20)"  # it takes the system a while to end
    forking = nursery_of(tmp_path, large)
    worker, source = await staying(forking)
    first = asyncio.create_task(forking.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await forking.close()
    assert not psutil.pid_exists(source)
    await first
    await worker.stop(0)


async def test_a_command_that_does_not_exist_leaks_nothing() -> None:
    before = psutil.Process().num_fds()
    absent = Nursery("m", ["/absent/command"], os.environ)
    with pytest.raises(OSError, match="absent"):
        await absent.spawn([], "token", print)
    assert psutil.Process().num_fds() == before


async def test_workers_hold_no_file_of_their_siblings_or_of_the_nursery(tmp_path: Path) -> None:
    forking = nursery_of(tmp_path)
    tell = "print([os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2])"
    lines: list[str] = []
    first, _ = await staying(forking)
    last = await forking.spawn([tell], "token", lines.append)
    assert await last.wait() == 0
    await last.stop(0)
    assert lines[0].count("pipe:") == 1
    assert "socket:" not in lines[0]
    await first.stop(0)
    await forking.close()
