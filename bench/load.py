"""A load of streamed chat requests on any OpenAI-compatible server, and what its users would have felt.

    python -m bench.load --url http://127.0.0.1:8080 --model smollm2 --concurrency 8 --requests 32

TTFT: to the first text. TPOT: (whole time - TTFT) / (tokens - 1). ITL: between two events with text. E2EL: whole time.
Invariant: tokens are counted by the server's usage, never by events, which may carry several; a request that did not
end in order is a failure and adds to no figure.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import uvloop

from bench.sse import Exchange, Target, exchange

_PATH = "/v1/chat/completions"
_PERCENTILES = (50, 90, 99)
_WORDS = [
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("program", "question", "work", "government", "number", "night", "point", "home", "water", "room", "mother"),
    *("area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business"),
]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one latency, in milliseconds."""

    name: str
    mean: float
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    num_requests: int
    num_failed: int
    first_fault: str
    seconds: float
    num_prompt: int
    num_generated: int
    latencies: tuple[Figures, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    exchanges, seconds = uvloop.run(_drive(options))
    found = report(exchanges, seconds)
    print(as_json(found) if options.output == "json" else as_markdown(found))
    if found.num_failed:
        print(f"error: {found.num_failed} requests failed, first: {found.first_fault}", file=sys.stderr)
    return 1 if found.num_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.load", description="Load an OpenAI-compatible server with streams.")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests under way at once")
    parser.add_argument("--requests", type=int, default=32, metavar="N")
    parser.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help="as many words, all different")
    parser.add_argument("--shared-tokens", type=int, default=0, metavar="N", help="of them, the same in every prompt")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--warm-up", type=int, default=1, metavar="N", help="requests before the clock starts")
    parser.add_argument("--body", type=json.loads, default={}, metavar="JSON", help="further fields of the request")
    parser.add_argument("-o", "--output", choices=("md", "json"), default="md")
    return parser


async def _drive(options: argparse.Namespace) -> tuple[list[Exchange], float]:
    target = Target.of(options.url, _PATH)
    bodies = [_body(options, number) for number in range(options.requests + options.warm_up)]
    for body in bodies[: options.warm_up]:
        await exchange(target, body, options.api_key)
    waiting = iter(bodies[options.warm_up :])
    found: list[Exchange] = []
    begin = time.monotonic()
    await asyncio.gather(*(_user(target, waiting, options.api_key, found) for _ in range(options.concurrency)))
    return found, time.monotonic() - begin


async def _user(target: Target, waiting: Iterator[dict[str, Any]], api_key: str, found: list[Exchange]) -> None:
    """Sends the next request as soon as the last one ended."""
    for body in waiting:
        found.append(await exchange(target, body, api_key))


def _body(options: argparse.Namespace, number: int) -> dict[str, Any]:
    """Greedy and of full length, so that two servers do the same work."""
    return {
        "model": options.model,
        "messages": [{"role": "user", "content": prompt(number, options.prompt_tokens, options.shared_tokens)}],
        "max_tokens": options.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options.body,
    }


def prompt(number: int, num_words: int, num_shared: int) -> str:
    """Words that are a token each in most vocabularies; behind the shared ones, the request's own number comes first,
    so that no two prompts have more in common."""
    shared = [_WORDS[i * 7 % len(_WORDS)] for i in range(num_shared)]
    own = [_WORDS[(i * 11 + number * 13) % len(_WORDS)] for i in range(num_words - num_shared - 1)]
    return " ".join([*shared, str(number), *own])


# ---- what the exchanges say -------------------------------------------------------------------


def report(exchanges: Sequence[Exchange], seconds: float) -> Report:
    good = [one for one in exchanges if not one.fault]
    faults = [one.fault for one in exchanges if one.fault]
    latencies = {
        "TTFT": [one.arrivals[0] - one.started for one in good if one.arrivals],
        "TPOT": [
            (one.ended - one.arrivals[0]) / (one.num_generated - 1)
            for one in good
            if one.arrivals and one.num_generated > 1
        ],
        "ITL": [later - earlier for one in good for earlier, later in pairwise(one.arrivals)],
        "E2EL": [one.ended - one.started for one in good],
    }
    return Report(
        num_requests=len(exchanges),
        num_failed=len(faults),
        first_fault=faults[0] if faults else "",
        seconds=seconds,
        num_prompt=sum(one.num_prompt for one in good),
        num_generated=sum(one.num_generated for one in good),
        latencies=tuple(_figures(name, values) for name, values in latencies.items() if values),
    )


def _figures(name: str, seconds: Sequence[float]) -> Figures:
    ordered = sorted(seconds)
    return Figures(
        name, statistics.fmean(ordered) * 1000, tuple(percentile(ordered, part) * 1000 for part in _PERCENTILES)
    )


def percentile(ordered: Sequence[float], part: int) -> float:
    """The smallest value that at least `part` percent do not exceed."""
    return ordered[max(-(-len(ordered) * part // 100) - 1, 0)]


def as_markdown(found: Report) -> str:
    requests, prompts, output = (
        count / found.seconds
        for count in (found.num_requests - found.num_failed, found.num_prompt, found.num_generated)
    )
    lines = [
        f"{found.num_requests} requests, {found.num_failed} failed, {found.seconds:.1f} s: "
        f"{requests:.2f} requests/s, {output:.1f} output tokens/s, {prompts:.1f} prompt tokens/s",
        "",
        "| ms | mean | " + " | ".join(f"p{part}" for part in _PERCENTILES) + " |",
        "|---|---:|" + "---:|" * len(_PERCENTILES),
    ]
    for figures in found.latencies:
        cells = (f"{value:.1f}" for value in (figures.mean, *figures.percentiles))
        lines.append(f"| {figures.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(found: Report) -> str:
    fields: dict[str, Any] = {
        "num_requests": found.num_requests,
        "num_failed": found.num_failed,
        "seconds": found.seconds,
        "num_prompt_tokens": found.num_prompt,
        "num_output_tokens": found.num_generated,
        "output_tokens_per_second": found.num_generated / found.seconds,
    }
    for figures in found.latencies:
        values = dict(zip((f"p{part}" for part in _PERCENTILES), figures.percentiles, strict=True))
        fields[f"{figures.name.lower()}_ms"] = {"mean": figures.mean, **values}
    return json.dumps(fields, indent=2)


if __name__ == "__main__":
    raise SystemExit(main())
