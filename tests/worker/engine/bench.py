"""An engine around a model without weights, for tests of what requests get of it."""

import threading
import time

from tests.worker.fake_model import EOG, FakeDetokenizer, FakeModel
from tests.worker.inbox import Inbox
from worker.context import Capacity
from worker.cores.lease import Cores, OwnCores
from worker.drafting.draft_model import DraftLimits, ModelDrafter
from worker.engine import Engine
from worker.generation import Request
from worker.sampling.settings import Sampling

BLOCK = 4
PROMPT = [2 + i % 40 for i in range(33)]


class Bench:
    """An engine with a fake model, and the ends of its wires."""

    def __init__(self, **changes) -> None:
        defaults = {"eog_odds": 0.0, "repeats": 0.0, "cores": None, "store": None, "drafter": None}
        eog_odds, repeats, cores, store, drafter = (changes.pop(name, default) for name, default in defaults.items())
        settings = {"context_length": 64, "num_blocks": 16, "max_running": 4, "max_waiting": 100, "step_tokens": 8}
        self.capacity = Capacity(block_size=BLOCK, **settings | changes)
        self.model = FakeModel(self.capacity.num_blocks, BLOCK, eog_odds=eog_odds)
        self.model.repeats = repeats
        self.deaths: list[BaseException] = []
        self.posts: list[list] = []
        self.engine = Engine(self.model, self.capacity, {EOG}, self._post, self.deaths.append, store, cores, drafter)

    def _post(self, events) -> None:
        self.posts.append(events)
        for sink, event in events:
            sink(event)

    def __enter__(self) -> "Bench":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.model.gate.set()
        self.engine.stop()
        assert not self.deaths

    def submit(self, prompt, seed=1, **request) -> Inbox:
        self.last, inbox = None, Inbox()
        sampling = request.pop("sampling", Sampling(seed))
        request.setdefault("detokenizer", FakeDetokenizer())
        self.last = self.engine.submit(Request(prompt, sampling, **request), inbox.put)
        return inbox

    def wait_until(self, condition, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not condition(self.engine.stats()):
            assert time.monotonic() < deadline, self.engine.stats()
            threading.Event().wait(0.001)

    def wait_until_idle(self) -> None:
        self.wait_until(
            lambda s: s.num_running == s.num_waiting == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks
        )


def alone(prompt, **request) -> Inbox:
    """What the request gives with the engine for itself, its prompt in one piece and nothing to reuse."""
    with Bench(step_tokens=256, max_running=1, num_blocks=64) as bench:
        inbox = bench.submit(prompt, **request)
        inbox.result()
    return inbox


def shifting(**changes) -> Bench:
    return Bench(context_length=32, num_blocks=8, shifts_context=True, **changes)


def in_engine(bench: Bench, function):
    return bench.engine.call(function).result(60)


def drafter_with(repeats: float, num_blocks: int = 64, cores: Cores | None = None) -> ModelDrafter:
    """One whose model is as the engine's, as far as `repeats` is."""
    model = FakeModel(num_blocks, BLOCK)
    model.repeats = repeats
    limits = DraftLimits(256, num_blocks, BLOCK, max_sequences=3, step_tokens=64, step_seconds=1e9)
    return ModelDrafter(model, limits, 0.1, cores or OwnCores())
