"""What balancing saves: how much of the prompts the replicas of a model need not compute, policy by policy.

    python -m bench.routing -m FILE [--documents 8] [--held 5] [--requests 64]

Questions about documents arrive in an order drawn by chance, a few at a time; each replica's cache holds only so many
documents. The policies get the same requests in the same order, each with replicas that have just been started.
Invariant: tokens are counted, never time; they are what the server's usage tells.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.gateway import free_port

POLICIES = ("round-robin", "least-tokens", "session", "prefix")
_START_SECONDS = 300.0
_ANSWER = 4  # tokens
_BLOCK = 16
_WORDS = ("horse", "river", "stone", "cloud", "light", "paper", "green", "seven", "north", "music", "table", "bread")


@dataclass(frozen=True, slots=True)
class Question:
    document: int
    prompt: str


@dataclass(frozen=True, slots=True)
class Answer:
    replica: str
    num_prompt: int
    num_cached: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    asked = questions(options.documents, options.tokens, options.requests, options.seed)
    found = {}
    for policy in options.policies:
        with _serving(policy, options) as url, ThreadPoolExecutor(options.concurrency) as users:
            found[policy] = list(users.map(lambda question: _ask(url, question), asked))
        print(policy, file=sys.stderr, flush=True)
    print(as_markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.routing", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--replicas", type=int, default=2, metavar="N")
    parser.add_argument("--documents", type=int, default=8, metavar="N")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of each document, about one for a word")
    parser.add_argument("--held", type=int, default=5, metavar="N", help="documents that a replica's cache can hold")
    parser.add_argument("--requests", type=int, default=64, metavar="N")
    parser.add_argument("--concurrency", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    return parser


def questions(num_documents: int, num_words: int, count: int, seed: int) -> list[Question]:
    """As many as `count`, each a document and a few words of its own."""
    dice = random.Random(seed)
    documents = [f"{number} " + " ".join(dice.choices(_WORDS, k=num_words)) for number in range(num_documents)]
    drawn = [dice.randrange(num_documents) for _ in range(count)]
    return [
        Question(number, f"{documents[number]}\nQuestion {place}: {' '.join(dice.choices(_WORDS, k=8))}?")
        for place, number in enumerate(drawn)
    ]


@contextmanager
def _serving(policy: str, options: argparse.Namespace) -> Iterator[str]:
    """The URL of a gateway with fresh replicas."""
    port, room = free_port(), options.held * (options.tokens + 3 * _BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "corral.toml"
        config.write_text(
            f"[models.m]\npath = {json.dumps(str(options.model.absolute()))}\nreplicas = {options.replicas}\n"
            f"worker = {{ ctx-size = {room}, parallel = {options.concurrency} }}\n[balance]\npolicy = '{policy}'\n"
        )
        command = [sys.executable, "-m", "router", "serve", "--config", str(config), "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as gateway:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(url, options.replicas)
                yield url
            finally:
                gateway.terminate()


def _wait(url: str, num_replicas: int) -> None:
    """Until all replicas are ready."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"{url}/models", timeout=5) as answer:
            [model] = json.load(answer)["data"]
            if [replica["state"] for replica in model["replicas"]] == ["ready"] * num_replicas:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the replicas behind {url} do not become ready")


def _ask(url: str, question: Question) -> Answer:
    session = {"x-session-id": str(question.document), "content-type": "application/json"}
    body = json.dumps({"model": "m", "prompt": question.prompt, "max_tokens": _ANSWER, "temperature": 0})
    request = urllib.request.Request(f"{url}/v1/completions", body.encode(), session)
    with urllib.request.urlopen(request, timeout=_START_SECONDS) as answer:
        usage = json.load(answer)["usage"]
        replica = answer.headers["x-corral-replica"]
    return Answer(replica, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def as_markdown(found: Mapping[str, Sequence[Answer]]) -> str:
    lines = ["| policy | prompt tokens | cached | hit rate | requests by replica |", "|---|---:|---:|---:|---|"]
    for policy, answers in found.items():
        num_prompt = sum(answer.num_prompt for answer in answers)
        num_cached = sum(answer.num_cached for answer in answers)
        shares = " ".join(str(count) for _, count in sorted(Counter(answer.replica for answer in answers).items()))
        lines.append(f"| {policy} | {num_prompt} | {num_cached} | {num_cached / num_prompt:.1%} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
