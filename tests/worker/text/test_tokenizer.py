"""Tokenizers against recorded answers of a peer, and the rules about special tokens, flags and errors."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import smollm2
from tests.parity.corpus import score_vocabulary
from tests.worker.text.vocabularies import byte_level
from worker.errors import GGUFError, InvalidRequest, UnsupportedModel
from worker.gguf import GGUF
from worker.text.chat_template import ChatTemplate
from worker.text.tokenizer import Tokenizer

PARITY = Path(__file__).parents[2] / "parity"


def recorded(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((PARITY / f"tokens_{name}.json").read_text())
    return cases


@lru_cache
def tokenizer_of(path: Path) -> Tokenizer:
    with GGUF.open(path) as gguf:
        return Tokenizer(gguf.metadata)


def differences(tokenizer: Tokenizer, cases: list[dict[str, Any]]) -> list[str]:
    return [
        f"{case['text']!r}: {ids} instead of {case[mode]}"
        for case in cases
        for mode, special in (("special", True), ("plain", False))
        if (ids := tokenizer.encode(case["text"], add_special=special, parse_special=special)) != case[mode]
    ]


def test_smollm2_reads_every_recorded_text_as_the_peer_does() -> None:
    cases = recorded("smollm2")
    assert len(cases) > 400
    assert differences(tokenizer_of(smollm2()), cases) == []


def test_a_sentencepiece_vocabulary_reads_every_recorded_text_as_the_peer_does() -> None:
    cases = recorded("spm")
    assert len(cases) > 200
    assert differences(Tokenizer(score_vocabulary()), cases) == []


@pytest.mark.slow
def test_gemma3_reads_every_recorded_text_as_the_peer_does() -> None:
    command = [sys.executable, "-m", "router", "pull", "gemma3-270m"]
    pulled = subprocess.run(command, capture_output=True, text=True, check=True)
    tokenizer = tokenizer_of(Path(pulled.stdout.splitlines()[-1]))
    assert differences(tokenizer, recorded("gemma3")) == []
    assert tokenizer.eog_ids == {1, 106, 212}


def test_smollm2_knows_what_its_file_says_and_what_its_texts_say() -> None:
    tokenizer = tokenizer_of(smollm2())
    assert (tokenizer.vocab_size, tokenizer.vocab_type) == (49152, 2)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert not tokenizer.add_bos
    assert not tokenizer.add_eos
    assert tokenizer.eog_ids == {0, 2, 4}  # <|endoftext|>, <|im_end|>, <reponame>


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_of_bytes_the_vocabulary_has_comes_back(text: str) -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_through_sentencepiece_but_for_its_prefix(text: str) -> None:
    tokenizer = Tokenizer(score_vocabulary())
    ids = tokenizer.encode(text.replace("▁", "_"), add_special=False, parse_special=False)
    assert tokenizer.decode(ids) == (" " + text.replace("▁", "_") if text else "")


def test_a_real_vocabulary_gives_back_what_it_read() -> None:
    tokenizer = tokenizer_of(smollm2())
    missing = {0xC0, 0xC1, *range(0xF1, 0xF3), *range(0xF5, 0x100), 4, 6, 19, 20, 22, 29}  # bytes it has no token for
    for case in recorded("smollm2"):
        text = case["text"]
        if not missing.intersection(text.encode()):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_are_read_only_when_asked_for() -> None:
    tokenizer = Tokenizer(byte_level(control=["<|go|>"]))
    assert tokenizer.encode("a<|go|>b") == [97, 256, 98]
    assert 256 not in tokenizer.encode("a<|go|>b", parse_special=False)


def test_user_defined_tokens_are_always_read() -> None:
    tokenizer = Tokenizer(byte_level(user=["<tool>"]))
    assert tokenizer.encode("a<tool>b", parse_special=False) == [97, 256, 98]


def test_the_longest_special_token_is_cut_out_first_wherever_it_stands() -> None:
    tokenizer = Tokenizer(byte_level(control=["xab", "abcd", "ab"]))
    assert tokenizer.encode("xabcd") == [ord("x"), 257]
    assert tokenizer.encode("xab") == [256]
    assert tokenizer.encode("abab") == [258, 258]


def test_a_special_token_that_only_begins_is_text() -> None:
    tokenizer = Tokenizer(byte_level(control=["<|go|>"]))
    assert tokenizer.encode("<|go|") == list(b"<|go|")


def test_bos_and_eos_are_added_only_where_the_file_wants_them() -> None:
    metadata = byte_level(control=["<s>", "</s>"]) | {"tokenizer.ggml.bos_token_id": 256}
    metadata["tokenizer.ggml.eos_token_id"] = 257
    assert Tokenizer(metadata).encode("a") == [97]
    both = Tokenizer(metadata | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True})
    assert both.encode("a") == [256, 97, 257]
    assert both.encode("a", add_special=False) == [97]
    assert both.encode("<s>a") == [256, 256, 97, 257]


def test_a_sentencepiece_text_begins_with_a_space_unless_the_file_says_no() -> None:
    metadata = score_vocabulary()
    assert Tokenizer(metadata).decode(Tokenizer(metadata).encode("ab", add_special=False)) == " ab"
    without = Tokenizer(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert without.decode(without.encode("ab", add_special=False)) == "ab"


def test_phi3_special_tokens_swallow_the_whitespace_after_them() -> None:
    tokenizer = Tokenizer(byte_level(control=["<|user|>", "<s>"]) | {"general.name": "Phi-3 Mini"})
    assert tokenizer.encode("<|user|> \na") == [256, 97]
    assert tokenizer.encode("<s> a") == [257, 32, 97]


def test_a_mask_token_swallows_the_whitespace_before_it() -> None:
    tokenizer = Tokenizer(byte_level(control=["<mask>"]) | {"tokenizer.ggml.pre": "jina-v2-de"})
    assert tokenizer.encode("a <mask> b") == [97, 256, 32, 98]


def test_control_tokens_have_a_text_only_when_asked_for() -> None:
    tokenizer = Tokenizer(byte_level(control=["<|go|>"], user=["<tool>"]))
    assert tokenizer.piece(256) == b"<|go|>"
    assert tokenizer.piece(256, special=False) == b""
    assert tokenizer.piece(257, special=False) == b"<tool>"
    assert tokenizer.decode([97, 256, 98], special=False) == "ab"


def test_pieces_are_bytes_and_may_be_half_a_character() -> None:
    tokenizer = Tokenizer(byte_level([b"\xe6\x97"]))
    assert tokenizer.piece(256) == b"\xe6\x97"
    assert tokenizer.decode([256]) == "\ufffd"
    assert tokenizer.decode([256, 0xA5]) == "日"


def test_byte_tokens_of_sentencepiece_are_their_bytes() -> None:
    tokenizer = Tokenizer(score_vocabulary())
    assert tokenizer.piece(3 + 0x41) == b"A"
    assert tokenizer.encode("<0x41>", add_special=False)[1:] != [3 + 0x41]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "ok" * 1000 + "\udc80"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate at character"):
        Tokenizer(byte_level()).encode(text)


def test_a_million_spaces_in_a_row_are_refused_and_fewer_are_read() -> None:
    tokenizer = Tokenizer(byte_level())
    with pytest.raises(InvalidRequest, match="more than 1000000 spaces in a row"):
        tokenizer.encode("a" + " " * 1_000_000)
    assert len(tokenizer.encode(" " * 600_000 + "a" + " " * 600_000)) == 1_200_001


@pytest.mark.parametrize("token", [-1, 256, 1 << 40])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match=f"token {token} is not in the vocabulary"):
        Tokenizer(byte_level()).decode([token])


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("tokenizer.ggml.model", "t5", UnsupportedModel, "unknown tokenizer 't5'.*supported: gpt2, llama"),
        ("tokenizer.ggml.model", None, GGUFError, "key tokenizer.ggml.model is missing"),
        ("tokenizer.ggml.model", np.array([1, 2]), GGUFError, r"key tokenizer.ggml.model is \[1, 2\], not a text"),
        ("tokenizer.ggml.pre", [b"gpt-2"], GGUFError, r"key tokenizer.ggml.pre is \[b'gpt-2'\], not a text"),
        ("tokenizer.ggml.add_bos_token", np.array([1, 0]), GGUFError, r"add_bos_token is \[1, 0\], not true or false"),
        ("tokenizer.ggml.add_bos_token", 1, GGUFError, "add_bos_token is 1, not true or false"),
        ("tokenizer.ggml.eos_token_id", "</s>", GGUFError, "eos_token_id is '</s>', not a whole number"),
        ("tokenizer.ggml.token_type", 1, GGUFError, "token_type is 1, not an array of numbers"),
        ("tokenizer.ggml.token_type", np.ones(256, bool), GGUFError, "token_type is an array of bools"),
        ("tokenizer.ggml.tokens", "a", GGUFError, "tokens is 'a', not an array of texts"),
        ("tokenizer.ggml.tokens", [], GGUFError, "tokens is empty"),
        ("general.name", 5, GGUFError, "key general.name is 5, not a text"),
        ("tokenizer.ggml.pre", "qwen9", UnsupportedModel, "unknown pre-tokenizer 'qwen9'.*supported: .*qwen2"),
        ("tokenizer.ggml.tokens", None, GGUFError, "tokens is missing"),
        ("tokenizer.ggml.tokens", [b"a", b"b", b"a"], GGUFError, "token 'a' occurs twice"),
        ("tokenizer.ggml.token_type", np.array([1, 1]), GGUFError, "token_type has 2 entries for 256 tokens"),
        ("tokenizer.ggml.merges", None, GGUFError, "merges is missing"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_named(key: str, value: Any, error: type[Exception], message: str) -> None:
    metadata = byte_level() | {key: value}
    if key == "tokenizer.ggml.tokens":
        del metadata["tokenizer.ggml.token_type"]
    with pytest.raises(error, match=message):
        Tokenizer(metadata)


def test_merges_that_build_no_token_are_left_out() -> None:
    metadata = byte_level() | {"tokenizer.ggml.tokens": [b"a", b"b"], "tokenizer.ggml.merges": [b"a b", b"ab ab"]}
    assert Tokenizer(metadata).encode("abab") == [0, 1, 0, 1]


def test_a_template_that_is_no_text_is_refused() -> None:
    metadata = byte_level() | {"tokenizer.chat_template": [b"{{ messages }}"]}
    with pytest.raises(GGUFError, match=r"key tokenizer.chat_template is .*, not a text"):
        ChatTemplate.from_metadata(metadata, Tokenizer(metadata))


def test_adding_a_bos_that_does_not_exist_is_refused() -> None:
    metadata = byte_level() | {"tokenizer.ggml.pre": "chatglm-bpe", "tokenizer.ggml.add_bos_token": True}
    with pytest.raises(GGUFError, match="add_bos_token is true, but"):
        Tokenizer(metadata)


def test_scores_that_are_no_numbers_are_refused() -> None:
    metadata = score_vocabulary()
    metadata["tokenizer.ggml.scores"][300] = float("nan")
    with pytest.raises(GGUFError, match="scores holds a value that is not a number"):
        Tokenizer(metadata)
