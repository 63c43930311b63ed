"""Two replicas of a real model: one is killed in the middle of answers, and no answer is any different for it."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from router.config import GatewayConfig, ModelConfig, SupervisionConfig
from router.fleet.lifecycle import ModelState
from tests.faults.answers import Answer, chat
from tests.models import smollm2
from tests.router.gateways import Gateway, running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

SUPERVISION = SupervisionConfig(first_delay=0.05, longest_delay=0.05, max_crashes=1000, recovery_wait=120.0)
NUM_TOKENS = 40
LEAST_EVENTS, MOST_EVENTS = 10, 300  # of all streams together, before the kill


def asking(question: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    options = {"stream_options": {"include_usage": True}} if stream else {}
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "stream": stream, "max_tokens": NUM_TOKENS, **options, **more}


BODIES = [
    asking("Name three colours.", temperature=0),
    asking("Count from one to twenty.", temperature=0, stop=["eight", "seven,"]),
    asking("Write a line of emoji: 🐎🐄🌵🤠", temperature=1.3, seed=5, ignore_eos=True),
    asking("Tell a story of a horse.", temperature=0.9, seed=1, top_p=0.9, repeat_penalty=1.2),
    asking("Give me a list of cities.", temperature=0.8, seed=2, logprobs=True, top_logprobs=3),
    asking("What is a corral?", temperature=0.7, seed=3, n=2),
    asking("Who was first on the moon?", stream=False, temperature=0.9, seed=4, logprobs=True, top_logprobs=2),
    asking("Say something in Russian: Привет", temperature=1.1, seed=6, ignore_eos=True),
    # What samplers remember beside the tokens goes along with them.
    asking("Describe the sea.", mirostat=1, seed=7, ignore_eos=True),
    asking("Describe a mountain.", mirostat=2, mirostat_tau=3, seed=8, ignore_eos=True),
    asking("Describe a river.", samplers=["top_k", "temperature", "adaptive_p"], adaptive_target=0.4, seed=9),
    asking("Describe the moon.", xtc_probability=0.5, xtc_threshold=0.05, temperature=1.2, seed=10),
    asking("Repeat after me: ha ha ha ha", dry_multiplier=0.8, repeat_last_n=-1, frequency_penalty=0.2, seed=11),
    asking("Describe rain.", dynatemp_range=0.5, typical_p=0.8, logit_bias=[[260, 2]], seed=12, ignore_eos=True),
]


@asynccontextmanager
async def two_replicas() -> AsyncIterator[Gateway]:
    arguments = ("--ctx-size", "4096", "--parallel", "8", "--threads", "1")
    model = ModelConfig(smollm2(), ("m",), arguments, replicas=2)
    async with running(GatewayConfig(models=(model,), supervision=SUPERVISION), wait=False) as gateway:
        gateway.client.timeout = httpx.Timeout(300)
        await both_ready(gateway)
        yield gateway


async def both_ready(gateway: Gateway) -> None:
    fleet = gateway.app.state.fleet
    async with asyncio.timeout(280):
        while [replica.state for replica in fleet.replicas("m")] != [ModelState.READY] * 2:
            await fleet.change()


async def ask_all(gateway: Gateway, killed: tuple[int, int] | None = None) -> list[Answer]:
    """All bodies at once; `killed` is a worker's process, and after how many events in all streams it is killed."""
    num_heard = 0

    def heard() -> None:
        nonlocal num_heard
        num_heard += 1
        if killed is not None and num_heard == killed[1]:
            os.kill(killed[0], signal.SIGKILL)

    return await asyncio.gather(*(chat(gateway.client, body, heard) for body in BODIES))


async def kill_in_the_middle(num_rounds: int) -> None:
    chance = random.Random(num_rounds)
    async with two_replicas() as gateway:
        undisturbed = await ask_all(gateway)
        assert all(answer.done and answer.error is None for answer in undisturbed)
        for _ in range(num_rounds):
            await both_ready(gateway)
            victim = chance.choice(gateway.app.state.fleet.replicas("m"))
            answers = await ask_all(gateway, (victim.pid, chance.randint(LEAST_EVENTS, MOST_EVENTS)))
            assert answers == undisturbed
            assert victim.pid not in [replica.pid for replica in gateway.app.state.fleet.replicas("m")]


async def test_answers_do_not_depend_on_a_worker_that_is_killed() -> None:
    """F1."""
    await kill_in_the_middle(2)


@pytest.mark.slow
async def test_answers_do_not_depend_on_twenty_workers_that_are_killed() -> None:
    """F1."""
    await kill_in_the_middle(20)
