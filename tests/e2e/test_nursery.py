"""Two replicas of a model, forked from one process that has loaded it: what they share, and what each loses alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.memory import usage_of
from tests.e2e.serving import Serving, serving, until
from tests.fixtures_gguf import write_tiny_llama

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("nursery")
    with serving(folder / "log", "--config", two_replicas(folder), "--threads", "1", "--slots") as running:
        yield running


def two_replicas(folder: Path) -> Path:
    model = write_tiny_llama(folder / "tiny.gguf")
    config = folder / "corral.toml"
    config.write_text(f"[models.tiny]\npath = {json.dumps(str(model))}\nreplicas = 2\n")
    return config


def text_of(served: Serving) -> str:
    answer = served.openai.completions.create(
        model="tiny", prompt="Once upon a time", max_tokens=20, temperature=0, extra_body={"ignore_eos": True}
    )
    return answer.choices[0].text


def told(served: Serving) -> dict[str, Any]:
    [model] = served.http.get("/admin/fleet").json()["models"]
    found: dict[str, Any] = model
    return found


def kill(served: Serving, worker: psutil.Process) -> None:
    """Returns once another one serves in its place."""
    num_starts = served.log.read_text().count("is ready")
    worker.kill()
    until(lambda: served.log.read_text().count("is ready") > num_starts)


def test_a_worker_is_a_child_of_the_gateway_and_shares_most_of_its_memory(served: Serving) -> None:
    [nursery], workers = served.nurseries(), served.workers()
    assert len(workers) == 2
    assert {process.ppid() for process in (nursery, *workers)} == {served.process.pid}
    text_of(served)
    for worker in workers:
        assert usage_of(worker).private < worker.memory_info().rss / 2
    together = sum(usage_of(process).proportional for process in (nursery, *workers))
    alone = together - usage_of(workers[1]).private  # what is shared would all be the first one's
    assert together < 1.3 * alone
    until(lambda: told(served)["proportional_bytes"] is not None)
    assert told(served)["proportional_bytes"] < told(served)["resident_bytes"] * 0.75


def test_a_killed_replica_comes_back_and_says_the_same_while_the_other_stays(served: Serving) -> None:
    [nursery], (killed, other), before = served.nurseries(), served.workers(), text_of(served)
    kill(served, killed)
    assert other in served.workers() and killed not in served.workers() and len(served.workers()) == 2
    assert served.nurseries() == [nursery]
    assert {text_of(served) for _ in range(4)} == {before}


def test_a_killed_nursery_takes_no_worker_along_and_the_next_worker_gets_another(served: Serving) -> None:
    [nursery], workers = served.nurseries(), served.workers()
    nursery.kill()
    until(lambda: served.nurseries() == [])
    assert served.workers() == workers
    before = text_of(served)
    kill(served, workers[0])
    assert served.nurseries() not in ([], [nursery])
    assert {text_of(served) for _ in range(4)} == {before}


def test_nothing_is_left_of_a_gateway_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--config", two_replicas(tmp_path), "--threads", "1") as doomed:
        family = [*doomed.nurseries(), *doomed.workers()]
        assert len(family) == 3
        family[-1].suspend()  # not even one that cannot notice
        doomed.process.kill()
        assert not psutil.wait_procs(family, timeout=60)[1]
