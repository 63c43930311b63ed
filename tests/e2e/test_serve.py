"""The whole thing: `corral serve` with SmolLM2, its real worker, and real clients."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.serving import DEADLINE, Serving, command, serving, until
from tests.models import smollm2

pytestmark = pytest.mark.timeout(600)

QUESTION: list[Any] = [{"role": "user", "content": "Name three colours."}]
PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"temperature": 0}
LONG: dict[str, Any] = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}  # takes many seconds


@pytest.fixture(scope="module")
def truncated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of the model."""
    whole, half = smollm2(), tmp_path_factory.mktemp("models") / "half.gguf"
    with whole.open("rb") as source:
        half.write_bytes(source.read(whole.stat().st_size // 2))
    return half


@pytest.fixture(scope="module")
def corrupt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looks like a model for four bytes."""
    file = tmp_path_factory.mktemp("models") / "noise.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 4096)
    return file


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, truncated: Path, corrupt: Path) -> Iterator[Serving]:
    """One good model under two aliases, and two files that are no good."""
    model = smollm2()
    arguments = ["-m", model, "--alias", f"tiny={model}", "--alias", f"chat={model}", "-m", truncated, "-m", corrupt]
    with serving(tmp_path_factory.mktemp("serve") / "log", *arguments) as running:
        yield running


def ask(served: Serving, **body: Any) -> str:
    answer = served.openai.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=24, **GREEDY, **body)
    return answer.choices[0].message.content or ""


# ---- answers ----------------------------------------------------------------------------------


def test_a_chat_is_answered_and_a_stream_says_the_same(served: Serving) -> None:
    answer = served.openai.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=24, **GREEDY)
    text = answer.choices[0].message.content
    assert text and text.strip()
    assert answer.usage is not None and answer.usage.prompt_tokens > 5
    chunks = list(
        served.openai.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_both_aliases_lead_to_the_same_model_and_are_listed(served: Serving) -> None:
    answers = [
        served.openai.chat.completions.create(model=name, messages=QUESTION, max_tokens=8, **GREEDY)
        for name in ("tiny", "chat")
    ]
    assert [answer.model for answer in answers] == ["tiny", "chat"]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert {"tiny", "chat"} <= {model.id for model in served.openai.models.list()}


def test_the_same_seed_gives_the_same_text_and_choices_differ(served: Serving) -> None:
    def texts() -> list[str | None]:
        answer = served.openai.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=24, seed=7, temperature=1.5, n=3
        )
        return [choice.message.content for choice in answer.choices]

    first, second = texts(), texts()
    assert first == second
    assert len(set(first)) > 1


def test_a_text_goes_on_from_its_prompt(served: Serving) -> None:
    answer = served.openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, logprobs=2, **GREEDY)
    choice = answer.choices[0]
    assert "Paris" in choice.text
    assert choice.logprobs is not None and choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert all(logprob is not None and logprob <= 0 for logprob in choice.logprobs.token_logprobs or [None])
    assert choice.finish_reason == "length"


def native(served: Serving, **body: Any) -> dict[str, Any]:
    answer = served.http.post("/completion", json={"model": "tiny", "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_the_native_format_takes_text_and_token_ids_alike(served: Serving) -> None:
    text = native(served, prompt=PROMPT, n_predict=12, return_tokens=True)
    ids = served.http.post("/tokenize", json={"model": "tiny", "content": PROMPT, "add_special": True}).json()["tokens"]
    assert text["content"] == native(served, prompt=ids, n_predict=12)["content"]
    assert text["tokens_predicted"] == len(text["tokens"]) == 12
    assert text["tokens_evaluated"] == len(ids)
    assert (text["stop"], text["stop_type"], text["truncated"]) == (True, "limit", False)


def test_a_stop_string_ends_the_text_before_it(served: Serving) -> None:
    whole = native(served, prompt=PROMPT, n_predict=24)["content"]
    stop = whole[len(whole) // 2 :][:6]
    cut = native(served, prompt=PROMPT, n_predict=24, stop=[stop])
    assert cut["content"] == whole[: whole.index(stop)]
    assert (cut["stop_type"], cut["stopping_word"]) == ("word", stop)


def test_a_native_stream_adds_up_to_the_whole(served: Serving) -> None:
    whole = native(served, prompt=PROMPT, n_predict=24)
    body = {"model": "tiny", "prompt": PROMPT, "n_predict": 24, "temperature": 0, "stream": True}
    answer = served.http.post("/completion", json=body)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert "".join(event["content"] for event in events) == whole["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_text_survives_the_way_to_tokens_and_back(served: Serving) -> None:
    text = "Hello, wörld!  <|im_start|> 日本語 🤖\n\tend"
    tokens = served.http.post("/tokenize", json={"model": "tiny", "content": text}).json()["tokens"]
    back = served.http.post("/detokenize", json={"model": "tiny", "tokens": tokens}).json()["content"]
    assert back == text


def test_the_template_is_the_models_own(served: Serving) -> None:
    prompt = served.http.post("/apply-template", json={"model": "tiny", "messages": QUESTION}).json()["prompt"]
    assert "<|im_start|>user\nName three colours.<|im_end|>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_an_answer_that_the_client_began_goes_on_where_it_stopped(served: Serving) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": "Red, green"}]
    prompt = served.http.post("/apply-template", json={"model": "tiny", "messages": messages}).json()["prompt"]
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\nRed, green")
    whole = "Red, green" + native(served, prompt=prompt, n_predict=8)["content"]
    asked: dict[str, Any] = {"model": "tiny", "messages": messages, "max_tokens": 8, **GREEDY}
    assert served.openai.chat.completions.create(**asked).choices[0].message.content == whole
    chunks = list(served.openai.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_a_prompt_without_tokens_is_answered_with_nothing(served: Serving) -> None:
    answer = native(served, prompt="", n_predict=8)
    assert (answer["content"], answer["tokens_evaluated"], answer["stop_type"]) == ("", 0, "none")


def test_requests_side_by_side_get_what_they_get_alone(served: Serving) -> None:
    prompts = [PROMPT, "Once upon a time", "2 + 2 =", "def main():"]
    alone = [native(served, prompt=prompt, n_predict=16)["content"] for prompt in prompts]
    together = served.http.post(
        "/completion", json={"model": "tiny", "prompt": prompts, "n_predict": 16, "temperature": 0}
    ).json()
    assert [each["content"] for each in together] == alone


# ---- bad input --------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(served: Serving) -> None:
    for stream in (False, True):
        answer = served.http.post("/completion", json={"model": "tiny", "prompt": "word " * 20_000, "stream": stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "exceed_context_size_error")
        assert error["n_prompt_tokens"] > error["n_ctx"] > 0


def test_a_token_beyond_the_vocabulary_is_refused(served: Serving) -> None:
    for path in ("/completion", "/v1/completions"):
        answer = served.http.post(path, json={"model": "tiny", "prompt": [1, 999_999]})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_names_the_nearest(served: Serving) -> None:
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        served.openai.chat.completions.create(model="tinny", messages=QUESTION)


@pytest.mark.parametrize("name", ["half", "noise"])
def test_a_model_that_is_no_good_says_why_and_the_others_serve(served: Serving, name: str) -> None:
    answer = served.http.post("/completion", json={"model": name, "prompt": "a"})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 500
    assert f"{name}.gguf" in message and "\n" not in message and "Traceback" not in message
    assert served.http.get(f"/v1/models/{name}").json()["status"]["failed"] is True
    assert ask(served)


def fails(*arguments: str | Path) -> str:
    """The one line that a `corral serve` that cannot start leaves."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    assert "absent.gguf" in fails("-m", tmp_path / "absent.gguf", "--port", "0")


def test_with_nothing_but_a_truncated_file_it_ends_and_names_it(truncated: Path) -> None:
    assert "half.gguf" in fails("-m", truncated, "--port", "0")


def test_a_port_in_use_is_named_before_anything_is_loaded(served: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in fails("-m", smollm2(), "--port", str(port))
    assert ask(served)


# ---- clients and workers that go --------------------------------------------------------------


def test_a_client_that_leaves_frees_its_place(served: Serving) -> None:
    """F11."""
    stream = served.openai.chat.completions.create(model="tiny", messages=QUESTION, stream=True, **LONG)
    next(iter(stream))
    assert served.num_running("tiny") == 1
    stream.close()
    until(lambda: served.num_running("tiny") == 0)


def test_a_client_that_leaves_while_its_prompt_is_read_frees_its_place(served: Serving) -> None:
    """F12. Not a token of the answer is computed for it."""
    body = {"model": "tiny", "prompt": list(range(1000, 7000)), "max_tokens": 500, "stream": True}
    with served.http.stream("POST", "/completion", json=body) as begun:
        assert begun.status_code == 200
    until(lambda: served.num_running("tiny") == 0)
    slots = served.http.get("/slots", params={"model": "tiny"}).json()
    [slot] = [slot for slot in slots if slot.get("n_prompt_tokens") == 6000]
    assert slot["next_token"][0]["n_decoded"] == 0


def test_a_stream_goes_on_with_the_worker_that_comes_back(served: Serving) -> None:
    """F1."""
    before = ask(served)
    body = {"model": "tiny", "messages": QUESTION, "stream": True, "max_tokens": 100, "ignore_eos": True}
    with served.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        seen = [next(line for line in lines if '"content":"' in line)]
        for worker in served.workers():
            worker.kill()
        seen += [line for line in lines if line]
    assert seen[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in seen)
    assert sum('"finish_reason":"length"' in line for line in seen) == 1
    until(lambda: served.state("tiny") == "loaded")
    assert ask(served) == before


def test_a_killed_gateway_leaves_no_process_behind(tmp_path: Path) -> None:
    """F9."""
    with serving(tmp_path / "log", "-m", smollm2(), "--alias", "tiny") as doomed:
        stream = doomed.openai.chat.completions.create(model="tiny", messages=QUESTION, stream=True, **LONG)
        next(iter(stream))
        family = psutil.Process(doomed.process.pid).children(recursive=True)
        assert doomed.workers()
        doomed.process.kill()
        doomed.process.wait()
        stream.close()
        gone, alive = psutil.wait_procs(family, timeout=DEADLINE)
        assert (len(gone), alive) == (len(family), [])


def test_a_terminated_gateway_lets_its_streams_end(tmp_path: Path) -> None:
    """F30."""
    with serving(tmp_path / "log", "-m", smollm2(), "--alias", "tiny", "--metrics") as leaving:
        workers = leaving.workers()
        stream = leaving.openai.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True, max_tokens=64, extra_body={"ignore_eos": True}
        )
        chunks = [next(iter(stream))]
        leaving.process.send_signal(signal.SIGTERM)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert leaving.process.wait(DEADLINE) == 0
        assert psutil.wait_procs(workers, timeout=DEADLINE)[1] == []


# ---- what operators ask -----------------------------------------------------------------------


def test_deep_health_is_a_real_token_and_the_counts_are_the_workers(served: Serving) -> None:
    checked = served.http.get("/health/deep", params={"model": "tiny"})
    assert checked.json()["status"] == "ok", checked.text
    [model] = [each for each in served.http.get("/admin/fleet").json()["models"] if each["state"] == "ready"]
    assert model["predicted_tokens_total"] > 0 and model["resident_bytes"] > 10_000_000
