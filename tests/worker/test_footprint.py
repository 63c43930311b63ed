# ruff: noqa: ASYNC110 (polling with a deadline)
import asyncio
import mmap
import threading

from worker.footprint import Footprint, proportional_bytes


def test_what_is_touched_counts():
    before = proportional_bytes()
    held = mmap.mmap(-1, 64 << 20)
    held.write(b"x" * (64 << 20))
    assert proportional_bytes() > before + (48 << 20)
    held.close()


def test_nobody_waits_for_a_look_and_the_next_one_comes_after_a_pause_that_grows_with_its_cost():
    now, looks, go = [0.0], [], threading.Event()

    def measure():
        go.wait(30)
        looks.append(now[0])
        now[0] += 2.0  # seconds
        return 1000 * len(looks)

    async def run():
        footprint = Footprint(measure, lambda: now[0])
        assert footprint.proportional() == footprint.proportional() == 0
        go.set()
        async with asyncio.timeout(30):
            while footprint.proportional() == 0:
                await asyncio.sleep(0.001)
        now[0] = 201.9
        assert footprint.proportional() == 1000
        now[0] = 202.1
        async with asyncio.timeout(30):
            while footprint.proportional() == 1000:
                await asyncio.sleep(0.001)
        assert len(looks) == 2

    asyncio.run(run())
