"""Slots and prefixes over HTTP, with the real model: clients that leave, saved slots, a worker that is killed."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.serving import DEADLINE, Serving, serving, until
from tests.models import smollm2
from worker.cache.kv_cache import block_digest

pytestmark = pytest.mark.timeout(600)

STORY = "Once upon a time there was a lighthouse keeper who counted every ship that passed. " * 8
NUM_LEAVING = 200


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("slots")
    arguments = ("-m", smollm2(), "--alias", "tiny", "--ctx-size", "512", "-np", "4", "--metrics", "--context-shift")
    stores = ("--slot-save-path", folder / "slots", "--kv-store", folder / "store", "--kv-store-size", "256")
    with serving(folder / "log", *arguments, *stores) as running:
        yield running


def complete(served: Serving, **body: Any) -> dict[str, Any]:
    answer = served.http.post("/completion", json={"temperature": 0, "n_predict": 8, **body})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def change(served: Serving, number: int, action: str, **body: str) -> dict[str, Any]:
    answer = served.http.post(f"/slots/{number}", params={"action": action}, json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def figure(served: Serving, name: str) -> float:
    [line] = [line for line in served.http.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def is_idle(served: Serving) -> bool:
    return figure(served, "llamacpp:requests_processing") == figure(served, "llamacpp:requests_deferred") == 0


def send(served: Serving, body: dict[str, Any]) -> socket.socket:
    """A request whose answer nobody may wait for."""
    url, data = httpx.URL(served.url), json.dumps(body).encode()
    connection = socket.create_connection((url.host, url.port), timeout=DEADLINE)
    head = f"POST /completion HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def begins(answer: socket.socket) -> bool:
    return answer.recv(12) == b"HTTP/1.1 200"


def test_when_two_hundred_clients_leave_the_next_one_is_served(served: Serving) -> None:
    body = {"stream": True, "n_predict": -1, "ignore_eos": True}
    connections = [send(served, body | {"prompt": f"{i} {STORY}"}) for i in range(NUM_LEAVING)]
    assert begins(connections[0])  # others are read, and most wait
    for connection in connections:
        connection.close()
    assert complete(served, prompt="The capital of France is")["content"]
    until(lambda: is_idle(served))


def test_a_slot_is_told_as_llama_server_tells_it(served: Serving) -> None:
    assert complete(served, prompt="Two plus two is", id_slot=3, n_predict=5)["id_slot"] == 3
    slot = served.http.get("/slots").json()[3]
    assert (slot["id"], slot["is_processing"], slot["n_prompt_tokens"]) == (3, False, 4)
    assert (slot["params"]["temperature"], slot["params"]["n_predict"]) == (0.0, 5)
    assert slot["next_token"][0]["n_decoded"] == 5


def test_a_request_waits_for_its_slot_and_holds_up_nobody_else(served: Serving) -> None:
    endless = {"stream": True, "n_predict": 100_000, "ignore_eos": True}
    with ThreadPoolExecutor() as threads, send(served, endless | {"prompt": "A", "id_slot": 2}) as running:
        assert begins(running)
        waiting = [threads.submit(complete, served, prompt=prompt, id_slot=2) for prompt in ("B", "C")]
        until(lambda: figure(served, "llamacpp:requests_deferred") > 0)
        assert complete(served, prompt="D")["id_slot"] != 2
        leaving = send(served, endless | {"prompt": "E", "id_slot": 6})  # numbers start anew: 2 again
        leaving.close()
        assert not any(each.done() for each in waiting)
        running.close()
        assert [each.result(DEADLINE)["id_slot"] for each in waiting] == [2, 2]
    until(lambda: is_idle(served))


def test_only_the_first_choice_of_a_prompt_waits_for_its_slot(served: Serving) -> None:
    answer = served.http.post("/completion", json={"prompt": "A", "id_slot": 3, "n": 2, "n_predict": 64})
    first, second = (choice["id_slot"] for choice in answer.json())
    assert first == 3 != second


def test_a_saved_slot_is_a_cache_hit_after_it_was_erased(served: Serving) -> None:
    first = complete(served, prompt="A " + STORY, id_slot=1)
    saved = change(served, 1, "save", filename="slot1.bin")
    assert saved["n_saved"] == (first["tokens_evaluated"] + 7) // 16 * 16 and saved["n_written"] > 1 << 20
    assert change(served, 1, "erase")["n_erased"] == first["tokens_evaluated"] + 8
    restored = change(served, 0, "restore", filename="slot1.bin")
    assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
    again = complete(served, prompt="A " + STORY)
    assert again["timings"]["cache_n"] == (first["tokens_evaluated"] - 1) // 16 * 16
    assert again["content"] == first["content"]


def test_prefixes_outlive_their_worker(served: Serving) -> None:
    first = complete(served, prompt="B " + STORY)
    content = {"content": "B " + STORY, "add_special": True}
    tokens = np.array(served.http.post("/tokenize", json=content).json()["tokens"], np.int32)
    name = b""
    for start in range(0, (len(tokens) - 1) // 16 * 16, 16):
        name = block_digest(name, tokens[start : start + 16])
    until(lambda: len(list(served.log.parent.glob(f"store/*/{name.hex()}.kv"))) == 1)
    [worker] = served.workers()
    worker.kill()
    until(lambda: served.workers() not in ([], [worker]) and served.state("tiny") == "loaded")
    again = complete(served, prompt="B " + STORY)
    assert again["timings"]["cache_n"] == (first["tokens_evaluated"] - 1) // 16 * 16
    assert again["content"] == first["content"]


def test_an_answer_longer_than_the_context_says_that_it_was_truncated(served: Serving) -> None:
    prompt = [1000 + i % 1000 for i in range(508)]
    answer = complete(served, prompt=prompt, n_predict=16, ignore_eos=True, n_keep=4)
    assert (answer["tokens_predicted"], answer["truncated"], answer["stop_type"]) == (16, True, "limit")


def test_no_file_outside_the_folder_is_touched(served: Serving, tmp_path: Path) -> None:
    for name in ("../x", str(tmp_path / "x"), ".x", ""):
        answer = served.http.post("/slots/0?action=save", json={"filename": name})
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Invalid filename")
