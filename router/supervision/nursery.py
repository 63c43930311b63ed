"""The process that loads a model once and forks its workers: started when the first one is wanted, asked for each.

An origin.Origin; worker/nursery.py is the other side and says what the two send each other. Workers are children
of this process and need their nursery for nothing, so that its end is noticed only by the next that is wanted, for
which it starts again. Invariant: every call of `spawn` ends with a worker or an error, whatever the nursery does.
"""

import asyncio
import json
import logging
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.fleet.modelfile import Contents, unless_changed
from router.supervision.process import TOKEN_VARIABLE, Adopted, Child
from router.supervision.restarts import describe_exit
from router.supervision.silence import computed, silence

log = logging.getLogger("corral.supervisor")

# Where it forks there must be no second thread, and libraries would start some when they are loaded.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_MOST_BYTES = 1 << 16  # of a reply
_LONGEST_FORK = 20.0  # seconds, of one that has loaded its model; else it hangs


class NurseryEnded(Exception):
    """It ended before the worker was there, as a worker itself might have."""

    def __init__(self, returncode: int) -> None:
        super().__init__(describe_exit(returncode))
        self.returncode = returncode


@dataclass(frozen=True, slots=True)
class _Birth:
    """A worker that is asked for."""

    process: asyncio.Future[Adopted]
    on_line: Callable[[str], None]


class Nursery:
    """One configuration's nursery through all its lives."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], look: Callable[[], Contents] = tuple
    ) -> None:
        """`command` and --nursery N start it; `look`: at the files that it loads, as they are now."""
        self._look = look
        self._contents: Contents = ()  # that it loads, or has loaded, in this life
        self._name = name
        self._command = command
        self._environment = {**environment, **_ONE_THREAD}
        self._life: asyncio.Task[None] | None = None  # while it lives
        self._control: socket.socket  # likewise
        self._process: Child | None = None
        self._births: deque[_Birth] = deque()  # in the order in which they were asked for
        self._has_forked = False  # in this life
        self._num_lines = 0  # that it has said

    async def spawn(self, arguments: Sequence[str], token: str, on_line: Callable[[str], None]) -> Child:
        """Forks a worker with this command line, whose callers must present `token`.

        `on_line` gets its output, before that the nursery's, as long as it loads. Raises NurseryEnded, OSError.
        """
        request = json.dumps({"arguments": list(arguments), "environment": {TOKEN_VARIABLE: token}}).encode()
        forked: Adopted

        async def fork(*files: int) -> Adopted:
            nonlocal forked
            forked = await self._fork(request, files, on_line)
            return forked

        child = await Child.begin(fork, on_line)
        child.contents = lambda: forked.contents
        return child

    async def close(self) -> None:
        """Ends it, whatever it does. May be called again meanwhile: what ends already is not disturbed."""
        if self._life is not None:
            if not self._life.cancelling():
                self._life.cancel()
            await asyncio.wait((self._life,))

    async def _fork(self, request: bytes, files: Sequence[int], on_line: Callable[[str], None]) -> Adopted:
        if self._life is None:
            self._begin()
        has_loaded = self._has_forked
        birth = self._ask(request, files, on_line)
        hanging = asyncio.create_task(_unanswered() if has_loaded else silence(self._sign))
        try:
            await asyncio.wait((birth.process, hanging), return_when=asyncio.FIRST_COMPLETED)
            if not birth.process.done() and self._process is not None:
                log.error("%s: the nursery is killed: %s", self._name, hanging.result())
                self._process.kill()
            return await birth.process
        except NurseryEnded:
            if not has_loaded:
                raise
            return await self._fork(request, files, on_line)
        finally:
            hanging.cancel()
            birth.process.cancel()

    def _sign(self) -> object:
        """Of life, while it loads."""
        return self._num_lines, computed(self._process.pid) if self._process is not None else None

    def _ask(self, request: bytes, files: Sequence[int], on_line: Callable[[str], None]) -> _Birth:
        birth = _Birth(asyncio.get_running_loop().create_future(), on_line)
        self._births.append(birth)
        with suppress(ConnectionError):  # it has just ended, and the birth is about to be told how
            socket.send_fds(self._control, [request], files)
        return birth

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._has_forked = False
        self._contents = self._look()
        asyncio.get_running_loop().add_reader(self._control, self._receive)
        self._life = asyncio.create_task(self._live(theirs), name=f"nursery {self._name}")

    async def _live(self, theirs: socket.socket) -> None:
        """One life, from its start until nobody waits for anything from it."""
        end: Exception = NurseryEnded(-signal.SIGKILL)
        try:
            with theirs:
                number = theirs.fileno()
                command = [*self._command, "--nursery", str(number)]
                process = self._process = await Child.spawn(command, self._environment, self._hear, [number])
            try:
                returncode = await process.wait()
                end = NurseryEnded(returncode)
                if self._has_forked:
                    log.warning("%s: the nursery ended: %s; its workers go on", self._name, describe_exit(returncode))
            finally:
                await process.stop(0.0)
        except OSError as error:
            end = error
        finally:
            self._end(end)

    def _end(self, end: Exception) -> None:
        while self._births and self._receive():  # what it forked before its end lives
            pass
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._life = self._process = None
        births, self._births = self._births, deque()
        for birth in births:
            if not birth.process.done():
                birth.process.set_exception(end)

    def _receive(self) -> bool:
        """Takes one reply; False at the end, of which `_live` is told more."""
        reply = b""
        with suppress(ConnectionResetError, BlockingIOError):  # it left requests unread; it never began
            reply = self._control.recv(_MOST_BYTES)
        if not reply:
            asyncio.get_running_loop().remove_reader(self._control)
            return False
        if not self._has_forked:
            self._has_forked, self._contents = True, unless_changed(self._contents, self._look)
        birth, told = self._births.popleft(), json.loads(reply)
        try:
            if "error" in told:
                raise OSError(told["error"])
            process = Adopted(told["pid"], self._contents)
        except OSError as error:
            if not birth.process.done():
                birth.process.set_exception(error)
            return True
        if not birth.process.done():  # else nobody wants it; it ends as its lifeline is closed
            birth.process.set_result(process)
        return True

    def _hear(self, line: str) -> None:
        """Said while it loads: to all that wait for it."""
        self._num_lines += 1
        waiting = [birth for birth in self._births if not birth.process.done()]
        for birth in waiting:
            birth.on_line(line)
        if not waiting and line:
            log.info("[%s] %s", self._name, line)


async def _unanswered() -> str:
    await asyncio.sleep(_LONGEST_FORK)
    return f"no answer for {_LONGEST_FORK:g} s"
