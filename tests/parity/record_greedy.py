"""Records what the peer's server answers greedily, for test_greedy.py:

    python -m tests.parity.record_greedy PATH/TO/llama-server MODEL.gguf [--out FILE]
    python -m tests.parity.record_greedy --check http://127.0.0.1:8080      # hold any running server against the record

Invariant: the record depends on the model and the peer alone: one slot, one thread, no prompt cache, no sampling.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.parity import cases, oracle
from tests.parity.oracle import Case, Endpoint, Oracle, Sampled, Step

RECORD = Path(__file__).with_name("greedy_smollm2.json")
_START_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_greedy", description="Record or check greedy answers.")
    parser.add_argument("server", type=Path, nargs="?", help="llama-server's executable")
    parser.add_argument("model", type=Path, nargs="?", help="the GGUF file")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--check", metavar="URL", help="ask this running server instead, and compare")
    options = parser.parse_args(arguments)
    if options.check:
        return _check(options.check, oracle.load(options.out))
    if options.model is None:
        parser.error("the server's path and a model are needed")
    with running_peer(options.server, options.model) as client:
        oracle.save(_record(client, version(options.server), options.model), options.out)
    return 0


def _check(url: str, recorded: Oracle) -> int:
    num_faults = num_drifted = 0
    with httpx.Client(base_url=url, timeout=600) as client:
        for case in recorded.cases:
            verdict = oracle.compare(case, oracle.ask(client, case), recorded.end_tokens)
            num_faults += bool(verdict.fault)
            num_drifted += verdict.drifted
            state = verdict.fault or (f"margin {verdict.margin:.3f}" if verdict.margin else "equal")
            print(f"{case.name:20} {verdict.num_equal:2}/{len(case.steps):2} {state}", flush=True)
    print(f"{len(recorded.cases)} cases, {num_faults} wrong, {num_drifted} beyond a near tie")
    return 1 if num_faults else 0


@contextmanager
def running_peer(
    server: Path, model: Path, *, context_length: int = 8192, flags: Sequence[str] = ()
) -> Iterator[httpx.Client]:
    """llama-server on a free loopback port, ended on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--host", "127.0.0.1", "--port", str(port), "-np", "1", "-t", "1", "-c", str(context_length),
             "--no-webui", *flags]  # fmt: skip
    process = subprocess.Popen([server, "-m", model, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            _wait_until_healthy(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended with status {process.returncode}")
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"the peer was not healthy within {_START_SECONDS} s")


def version(server: Path) -> str:
    """What the executable says of itself."""
    shown = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    return (shown.stdout + shown.stderr).splitlines()[0].removeprefix("version: ")


def _record(client: httpx.Client, version: str, model: Path) -> Oracle:
    recorded = [record_raw(client, name, prompt) for name, prompt in cases.RAW.items()]
    recorded += [_record_chat(client, name, messages) for name, messages in cases.CHATS.items()]
    end_tokens = {case.steps[-1].token for case in recorded if case.ended}
    return Oracle(
        peer=f"llama-server {version}",
        model_size=model.stat().st_size,
        end_tokens=frozenset(end_tokens),
        cases=tuple(recorded),
        sampled=tuple(_record_sampled(client, name) for name in cases.SAMPLED),
    )


def record_raw(client: httpx.Client, name: str, prompt: str) -> Case:
    reply = oracle.post(client, Endpoint.COMPLETION, oracle.completion_body(prompt))
    print(f"{name:20} {reply['tokens_evaluated']:5} {reply['content']!r}", file=sys.stderr)
    return Case(
        name=name,
        endpoint=Endpoint.COMPLETION,
        body={"prompt": prompt},
        rendered=prompt,
        num_prompt=reply["tokens_evaluated"],
        steps=_steps(client, prompt, reply),
        ended=reply["stop_type"] == "eos",
        content=reply["content"],
    )


def _record_chat(client: httpx.Client, name: str, messages: cases.Conversation) -> Case:
    """The tokens come from the rendered prompt, the text from the chat route; the two must tell one story."""
    body = {"messages": messages}
    rendered = oracle.post(client, "/apply-template", body)["prompt"]
    raw = record_raw(client, f"chat_{name}", rendered)
    case = Case(raw.name, Endpoint.CHAT, body, rendered, raw.num_prompt, raw.steps, raw.ended, raw.content)
    end_tokens = frozenset({case.steps[-1].token} if case.ended else ())
    verdict = oracle.compare(case, oracle.ask(client, case), end_tokens)
    if verdict != oracle.Verdict(len(case.steps)):
        raise RuntimeError(f"{case.name}: the peer's chat and completion routes differ: {verdict}")
    return case


def _record_sampled(client: httpx.Client, name: str) -> Sampled:
    body = {"prompt": cases.RAW[name], **cases.SAMPLING}
    reply = oracle.post(client, Endpoint.COMPLETION, {**oracle.completion_body(cases.RAW[name]), **body})
    return Sampled(name, body, tuple(reply["tokens"]))


def _steps(client: httpx.Client, prompt: str, reply: Mapping[str, Any]) -> tuple[Step, ...]:
    """The peer leaves out the probabilities of a token that ends within a character; those are asked for one by one."""
    reported = iter(reply["completion_probabilities"])
    item = next(reported, None)
    steps = []
    for i, token in enumerate(reply["tokens"]):
        if item is not None and item["id"] == token:
            steps.append(_step(token, item["top_logprobs"]))
            item = next(reported, None)
        else:
            steps.append(_step(token, _probe(client, prompt, reply["tokens"][:i])))
    if item is not None:
        raise RuntimeError(f"probabilities of token {item['id']} belong to no token of the answer")
    return tuple(steps)


def _step(token: int, top: Sequence[Mapping[str, Any]]) -> Step:
    """The alternatives come sorted; a choice within rounding of the first may be listed second."""
    chosen = next(entry for entry in top if entry["id"] == token)
    others = tuple((entry["id"], entry["logprob"]) for entry in top if entry["id"] != token)
    return Step(token, chosen["logprob"], others)


def _probe(client: httpx.Client, prompt: str, tokens: Sequence[int]) -> Sequence[Mapping[str, Any]]:
    """The distribution after these tokens. A whole word is forced, because only then are probabilities reported;
    they are those before the bias."""
    prompt_ids = oracle.post(client, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    word = oracle.post(client, "/tokenize", {"content": " the"})["tokens"][0]
    forced = {"n_predict": 1, "logit_bias": [[word, 1000.0]]}
    body = {**oracle.completion_body([*prompt_ids["tokens"], *tokens]), **forced}
    reply = oracle.post(client, Endpoint.COMPLETION, body)
    top: Sequence[Mapping[str, Any]] = reply["completion_probabilities"][0]["top_logprobs"]
    return top


if __name__ == "__main__":
    raise SystemExit(main())
