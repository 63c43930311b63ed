"""The real `openai` client against the real gateway."""

from collections.abc import Iterator

import openai
import pytest

from tests.router.api.clients import DEADLINE, Gateway, until

HELLO = [{"role": "user", "content": "say stop_at=3"}]


def connect(gateway: Gateway, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=DEADLINE)


@pytest.fixture
def client(two: Gateway) -> Iterator[openai.OpenAI]:
    with connect(two) as connected:
        yield connected


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, temperature=0, seed=1)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "w0 w1 w2"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == 5
    assert answer.usage.prompt_tokens_details is not None and answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == "tiny"


def test_chat_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="other",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "w0 w1 w2"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
    assert {chunk.model for chunk in chunks} == {"other"}


def test_the_streaming_helper_puts_the_answer_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "w0 w1 w2"
    logprobs = final.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [2, 2, 2]


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=2, logprobs=1, n=2)
    assert [choice.text for choice in answer.choices] == ["w0 w1"] * 4
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.token_logprobs == [-0.5, -0.5]


def test_completions_stream(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="tiny", prompt="a", max_tokens=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "w0 w1"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == ["other", "tiny"]
    assert all(model.object == "model" and model.owned_by and model.created > 0 for model in listed)
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_wrong_key_is_an_authentication_error(locked: Gateway) -> None:
    with connect(locked, "open barley") as client, pytest.raises(openai.AuthenticationError) as raised:
        client.models.list()
    assert "Invalid API Key" in raised.value.message
    with connect(locked, "open sesame") as client:
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content  # type: ignore[arg-type]


def test_an_unknown_model_names_the_nearest(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(model="tinny", messages=HELLO, stream=stream)  # type: ignore[arg-type]
        assert "'tinny' not found" in raised.value.message and "'tiny'" in raised.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_bad_input_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=HELLO, temperature="hot")  # type: ignore[arg-type]


def test_a_worker_that_dies_in_a_stream_raises(client: openai.OpenAI, two: Gateway) -> None:
    messages = [{"role": "user", "content": "crash_after=2 delay=0.05"}]
    stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)  # type: ignore[arg-type]
    with pytest.raises(openai.APIError, match="not tried again"):
        list(stream)
    until(lambda: two.http.get("/v1/models/tiny").json()["status"]["value"] == "loaded")


def test_a_closed_stream_frees_the_worker(client: openai.OpenAI, two: Gateway) -> None:
    messages = [{"role": "user", "content": "stop_at=100000 delay=0.01"}]
    stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)  # type: ignore[arg-type]
    next(iter(stream))
    assert two.num_running("tiny") == 1
    stream.close()
    until(lambda: two.num_running("tiny") == 0)
