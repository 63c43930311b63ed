"""Perplexity scores the tokens that the peer scores, whatever the steps, and says what it cannot do."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fixtures_gguf import CORPUS, END_OF_TEXT, byte_level_bpe, write_tiny_llama
from worker import perplexity
from worker.bench.workload import Ints
from worker.errors import InvalidRequest
from worker.gguf import GGUF
from worker.perplexity import Estimate, score, surprises, windows
from worker.text.tokenizer import Tokenizer

VOCABULARY = 50


@dataclass
class Successor:
    """Thinks that each token is followed by the next number, with a logit of `sureness` above all others."""

    sureness: float = 0.0
    vocab_size: int = VOCABULARY
    computed: list[int] = field(default_factory=list)

    def forward(
        self, tokens: Ints, starts: Ints, contexts: Ints, blocks: Ints, logit_rows: Ints
    ) -> NDArray[np.float32]:
        assert starts.tolist() == [0, len(tokens)]
        self.computed += range(contexts[0], contexts[0] + len(tokens))
        logits = np.zeros((len(logit_rows), VOCABULARY), np.float32)
        logits[np.arange(len(logit_rows)), (tokens[logit_rows] + 1) % VOCABULARY] = self.sureness
        return logits


def tokenizer_of(path: Path) -> Tokenizer:
    with GGUF.open(path) as gguf:
        return Tokenizer(gguf.metadata)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("perplexity") / "tiny.gguf")


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return tokenizer_of(model)


def test_a_model_without_a_clue_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    window = np.arange(32, dtype=np.int32)
    estimate = Estimate().plus(score(Successor(), window, 512))
    assert estimate.perplexity == pytest.approx(VOCABULARY)
    assert estimate.uncertainty == pytest.approx(0, abs=1e-6)


def test_each_token_is_held_against_what_stands_before_it() -> None:
    rising, falling = np.arange(32, dtype=np.int32), np.arange(32, dtype=np.int32)[::-1].copy()
    assert Estimate().plus(score(Successor(20.0), rising, 512)).perplexity == pytest.approx(1, abs=1e-5)
    assert Estimate().plus(score(Successor(20.0), falling, 512)).perplexity > 1e6


@pytest.mark.parametrize("size", [2, 3, 16, 33, 300])
def test_the_second_half_but_for_the_last_token_is_scored(size: int) -> None:
    decoder = Successor()
    assert score(decoder, np.zeros(size, np.int32), 512).shape == (size - 1 - size // 2,)
    assert decoder.computed == list(range(size - 1))


@pytest.mark.parametrize("step_tokens", [1, 7, 64, 512])
def test_steps_do_not_matter(step_tokens: int) -> None:
    window = np.random.default_rng(0).integers(0, VOCABULARY, 200, np.int32)
    expected = score(Successor(3.0), window, 1000)
    assert np.array_equal(score(Successor(3.0), window, step_tokens), expected)


def test_surprise_is_the_negative_log_probability() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    found = surprises(logits + np.float32(100), np.array([1, 2], np.int32))
    assert found == pytest.approx([math.log(4), -math.log(0.8)], rel=1e-4)


def test_the_uncertainty_is_that_of_the_mean() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    estimate = Estimate().plus(values[:1]).plus(values[1:])
    assert estimate.perplexity == pytest.approx(math.exp(2.5))
    assert estimate.uncertainty == pytest.approx(math.exp(2.5) * values.std() / math.sqrt(3))


def test_a_text_is_cut_into_whole_windows(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CORPUS)
    found = windows(tokenizer, CORPUS, 64)
    assert found.shape == (len(tokens) // 64, 64)
    assert found.reshape(-1).tolist() == tokens[: found.size]
    assert windows(tokenizer, CORPUS, 64, most=2).tolist() == found[:2].tolist()


def test_a_model_that_wants_bos_finds_it_at_the_head_of_every_window(tmp_path: Path) -> None:
    added = {"tokenizer.ggml.add_bos_token": True}
    with_bos = tokenizer_of(write_tiny_llama(tmp_path / "bos.gguf", metadata=added))
    tokens = with_bos.encode(CORPUS)
    found = windows(with_bos, CORPUS, 64)
    assert set(found[:, 0].tolist()) == {with_bos.bos_id}
    assert found[1, 1:].tolist() == tokens[65:128]


def test_control_tokens_in_the_text_are_text(tokenizer: Tokenizer) -> None:
    text = byte_level_bpe().tokens[END_OF_TEXT] * 20
    assert END_OF_TEXT not in windows(tokenizer, text, 16)


def test_a_text_that_is_too_short_is_refused_with_both_numbers(tokenizer: Tokenizer) -> None:
    num = len(tokenizer.encode("horse"))
    with pytest.raises(InvalidRequest, match=f"has {num} tokens, windows of 512 need at least 1024"):
        windows(tokenizer, "horse", 512)


def test_it_prints_what_the_peer_prints(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text(CORPUS)
    flags = ["-m", str(model), "-f", str(tmp_path / "text"), "-c", "32", "--chunks", "3", "-t", "1"]
    assert perplexity.main(flags) == 0
    first, final = capsys.readouterr().out.splitlines()
    numbers = [part.partition("]") for part in first.removesuffix(",").split(",")]
    assert [number for number, _, _ in numbers] == ["[1", "[2", "[3"]
    assert final.startswith(f"Final estimate: PPL = {numbers[-1][2]} +/- ")


@pytest.mark.parametrize(
    ("text", "said"), [(b"\xff\xfe", "byte 0"), (b"short", "at least 1024")], ids=["not UTF-8", "short"]
)
def test_a_text_that_will_not_do_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, said: str
) -> None:
    (tmp_path / "text").write_bytes(text)
    assert perplexity.main(["-m", str(model), "-f", str(tmp_path / "text"), "-t", "1"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


@pytest.mark.parametrize("flags", [["-c", "2"], ["-t", "-5"], ["-b", "0"]], ids=str)
def test_a_number_that_leaves_nothing_to_score_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        perplexity.main(["-m", "x.gguf", "-f", "x.txt", *flags])
    assert ended.value.code == 2
    assert f"{flags[-1]} is not between" in capsys.readouterr().err
