"""GET /slots and POST /slots/{id}: what llama-server's clients see of a model's places."""

import re

import pytest

from protos import inference_pb2 as pb
from router.api.slots import _slot
from tests.router.api.clients import Gateway, until


def change(tiny: Gateway, path: str, **body: str) -> tuple[int, dict]:
    answer = tiny.http.post(f"/slots/{path}", json=body)
    return answer.status_code, answer.json()


def test_an_idle_place_shows_only_what_it_is(tiny: Gateway) -> None:
    slots = tiny.http.get("/slots").json()
    assert slots[0] == {"id": 0, "n_ctx": 2048, "speculative": False, "is_processing": False}
    assert len(slots) == 4


def test_busy_places_are_shown_and_can_be_asked_for(tiny: Gateway) -> None:
    connections = [tiny.send("/completion", prompt="stop_at=100000 delay=1000") for _ in range(4)]
    until(lambda: tiny.num_running() == 4)
    refused = tiny.http.get("/slots", params={"fail_on_no_slot": "1"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "no slot available")
    for connection in connections:
        connection.close()
    until(lambda: tiny.num_running() == 0)
    assert tiny.http.get("/slots", params={"fail_on_no_slot": "1"}).status_code == 200


def test_a_used_place_shows_its_latest_request() -> None:
    sampling = pb.Sampling(seed=7, has_seed=True, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repeat_penalty=1)
    place = pb.Place(
        number=2,
        task=5,
        num_prompt_tokens=9,
        num_prompt_computed=1,
        num_cached=8,
        num_predicted=4,
        num_remaining=6,
        max_tokens=10,
        sampling=sampling,
    )
    shown = _slot(place, pb.DescribeReply(context_length=512, speculative=True))
    params = shown.pop("params")
    assert shown == {
        "id": 2,
        "n_ctx": 512,
        "speculative": True,
        "is_processing": False,
        "id_task": 5,
        "n_prompt_tokens": 9,
        "n_prompt_tokens_processed": 1,
        "n_prompt_tokens_cache": 8,
        "next_token": [{"has_next_token": False, "has_new_line": False, "n_remain": 6, "n_decoded": 4}],
    }
    assert (params["seed"], params["temperature"], params["top_k"], params["n_predict"]) == (7, 0.5, 3, 10)
    assert "stop" not in params


def test_a_request_without_a_limit_has_no_count_of_what_remains() -> None:
    place = pb.Place(number=0, task=0, max_tokens=-5, num_remaining=100, sampling=pb.Sampling(repeat_penalty=1))
    shown = _slot(place, pb.DescribeReply(context_length=512, speculative=True))
    assert (shown["next_token"][0]["n_remain"], shown["params"]["n_predict"]) == (-1, -1)


def test_actions_answer_as_llama_server_does(tiny: Gateway) -> None:
    status, saved = change(tiny, "1?action=save", filename="a.bin")
    assert status == 200 and saved.pop("timings")["save_ms"] >= 0
    assert saved == {"id_slot": 1, "filename": "a.bin", "n_saved": 11, "n_written": 5}
    status, restored = change(tiny, "2?action=restore", filename="a.bin")
    assert status == 200 and restored.pop("timings")["restore_ms"] >= 0
    assert restored == {"id_slot": 2, "filename": "a.bin", "n_restored": 22, "n_read": 5}
    assert change(tiny, "3?action=erase") == (200, {"id_slot": 3, "n_erased": 33})


def test_an_erasing_without_a_body_is_fine(tiny: Gateway) -> None:
    assert tiny.http.post("/slots/0?action=erase").json() == {"id_slot": 0, "n_erased": 30}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x?action=save", "Invalid slot ID"),
        ("-1?action=save", "Invalid slot ID"),
        ("99999999999?action=save", "Invalid slot ID"),
        ("0?action=jump", "Invalid action"),
        ("0", "Invalid action"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Gateway, path: str, message: str) -> None:
    status, body = change(tiny, path, filename="a")
    assert (status, body["error"]["message"]) == (400, message)


def test_a_file_name_must_be_text(tiny: Gateway) -> None:
    answer = tiny.http.post("/slots/0?action=save", json={"filename": 5})
    assert answer.status_code == 400
    assert re.search("'filename'", answer.json()["error"]["message"])
