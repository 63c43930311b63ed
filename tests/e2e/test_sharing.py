"""Two models on the same cores: both answer at once, and neither is lost with the other."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.serving import Serving, serving, until
from tests.models import smollm2

pytestmark = pytest.mark.timeout(600)

NUM_TOKENS = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("sharing")
    for name in ("one.gguf", "two.gguf"):
        (folder / name).symlink_to(smollm2())
    with serving(folder / "log", "-m", folder / "one.gguf", "-m", folder / "two.gguf", "-c", "2048") as running:
        yield running


def text_of(served: Serving, model: str, num_tokens: int = NUM_TOKENS) -> str:
    answer = served.openai.completions.create(
        model=model, prompt="Once upon a time", max_tokens=num_tokens, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.completion_tokens == num_tokens
    return answer.choices[0].text


def test_two_busy_models_say_what_each_says_alone(served: Serving) -> None:
    alone = text_of(served, "one")
    with ThreadPoolExecutor() as threads:
        texts = list(threads.map(lambda number: text_of(served, ("one", "two")[number % 2]), range(6)))
    assert texts == [alone] * 6


def test_a_stopped_worker_holds_up_its_own_streams_only_and_goes_on(served: Serving) -> None:
    with ThreadPoolExecutor() as threads:
        stopped = threads.submit(text_of, served, "one", 1000)
        until(lambda: served.num_running("one") == 1)
        worker = next(each for each in served.workers() if any("one.gguf" in word for word in each.cmdline()))
        worker.send_signal(signal.SIGSTOP)
        try:
            assert text_of(served, "two")
            assert not stopped.done()
        finally:
            worker.send_signal(signal.SIGCONT)
        assert text_of(served, "two")
        assert stopped.result()


def test_a_killed_worker_leaves_the_cores_to_the_other(served: Serving) -> None:
    with ThreadPoolExecutor() as threads:
        lost = threads.submit(text_of, served, "one", 1000)
        until(lambda: served.num_running("one") == 1)
        next(each for each in served.workers() if any("one.gguf" in word for word in each.cmdline())).kill()
        assert text_of(served, "two")
        went_on = lost.result()
    assert went_on == text_of(served, "one", 1000)
    assert text_of(served, "one") == text_of(served, "two")
