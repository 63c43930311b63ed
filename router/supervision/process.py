"""One running worker process: spawned in a group of its own, heard line by line, stopped and reaped.

Owned by supervisor.WorkerProcess, or by nursery.Nursery, which forks others. The child inherits the reading end of a
pipe whose writing end only this process holds: when the gateway dies, however it dies, the child reads end of file and
leaves. Invariant: after stop() no process of the group is left.
"""

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from router.fleet.modelfile import Contents

MAX_LINE_BYTES = 8192
TOKEN_VARIABLE = "CORRAL_WORKER_TOKEN"  # noqa: S105 (the name of what a worker's callers must present)
_PR_SET_CHILD_SUBREAPER = 36
_DRAIN_SECONDS = 1.0  # for what an ended process left in its pipe
_BURIAL_SECONDS = 5.0  # for the killed members of a group to be gone; only the kernel can hold one up
_LOOK_SECONDS = 0.01


class Process(Protocol):
    """A child of this process."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int:
        """The exit status; negative for a signal."""


class Child:
    """A process group under this gateway."""

    def __init__(self, process: Process, lifeline: int, output: int, on_line: Callable[[str], None]) -> None:
        self.contents: Callable[[], Contents] = tuple  # what it has loaded, to be asked once it has
        self._process = process
        self._lifeline = lifeline
        self._hearing = asyncio.create_task(_hear(output, on_line))

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        files: Sequence[int] = (),
    ) -> "Child":
        """Starts COMMAND --parent-fd N, which inherits `files`. Raises OSError if it cannot be executed."""

        async def start(parent_fd: int, output: int) -> Process:
            return await asyncio.create_subprocess_exec(
                *command,
                "--parent-fd",
                str(parent_fd),
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=dict(environment),
                pass_fds=(parent_fd, *files),
                start_new_session=True,
            )

        return await cls.begin(start, on_line)

    @classmethod
    async def begin(cls, start: Callable[[int, int], Awaitable[Process]], on_line: Callable[[str], None]) -> "Child":
        """`start` makes the leader of a group; it gets the child's ends of the lifeline and of the output."""
        parent_fd, lifeline = os.pipe()
        # A pipe of our own, because asyncio's wait() for a process may last until its pipes are closed, and a
        # grandchild can hold those open long after the child's death.
        output, child_output = os.pipe()
        try:
            process = await start(parent_fd, child_output)
        except BaseException:
            os.close(lifeline)
            os.close(output)
            raise
        finally:
            os.close(parent_fd)
            os.close(child_output)
        return cls(process, lifeline, output, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit status; negative for a signal."""
        return await self._process.wait()

    async def stop(self, grace: float) -> int:
        """SIGTERM, `grace` seconds, SIGKILL, to the whole group; then the exit status. Also sweeps up after an exit."""
        if grace > 0 and self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace)
        self.kill()
        returncode = await self._process.wait()
        await self._finish_hearing()
        await _bury(self.pid)
        return returncode

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def _finish_hearing(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hearing, _DRAIN_SECONDS)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            if self._process.returncode is None:  # just forked, it does not lead its group yet
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, number)


class Adopted:
    """A Process that a descendant of this one forked; it is our child as soon as its own parent has ended."""

    def __init__(self, pid: int, contents: Contents = ()) -> None:
        """`contents`: what it has in memory. Raises ChildProcessError if another process has adopted it."""
        self.pid = pid
        self.contents = contents
        self._descriptor = os.pidfd_open(pid)
        try:
            os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            os.close(self._descriptor)
            raise
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._descriptor, self._reap)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # killed and buried with its nursery's group, which it had not left yet
            status = signal.SIGKILL
        self._ended.set_result(os.waitstatus_to_exitcode(status))


def can_adopt() -> bool:
    """Whether the system lets a process take over descendants whose parent ends, and watch them."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def adopt_orphans() -> bool:
    """From now on descendants whose parent ends become children of this process; whether the system can do that."""
    return can_adopt() and bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


async def _bury(group: int) -> None:
    """Reaps the orphans of a killed group who became our children. They may die after their leader."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_BURIAL_SECONDS):
            while _bury_dead(group):  # noqa: ASYNC110 (the system tells only of a leader's end)
                await asyncio.sleep(_LOOK_SECONDS)


def _bury_dead(group: int) -> bool:
    """Whether a child of ours is left in the group. Its leader has been reaped by whoever waited for it."""
    try:
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return False
    return True


async def _hear(output: int, on_line: Callable[[str], None]) -> None:
    """Reads to the end of the pipe, or until cancelled, and closes it."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(loop=loop)
    pipe = os.fdopen(output, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        async for line in _lines(stream):
            on_line(line)
    finally:
        transport.close()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of at most MAX_LINE_BYTES; a longer one comes in pieces, so that no output can fill the memory."""
    rest = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip()
    if rest:
        yield rest.decode("utf-8", "replace").rstrip()
