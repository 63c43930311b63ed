"""What may be sent: whole characters, nothing that may begin a stop string, nothing after one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.text.vocabularies import byte_level
from worker.text.detokenizer import Detokenizer
from worker.text.tokenizer import Tokenizer

WORDS = ["Hello", " World", "wor", "ld!", "END", "a\nUser", b"\xe6\x97", b"\xa5x", "👍"]
TOKENIZER = Tokenizer(byte_level(WORDS, control=["<|im_end|>"]))
CONTROL = 256 + len(WORDS)


def ids(*pieces: str | bytes) -> list[int]:
    return [256 + WORDS.index(piece) if piece in WORDS else ord(piece) for piece in pieces]


def run(tokens: list[int], stop: list[str]) -> tuple[list[str], str, str | None]:
    detokenizer = Detokenizer(TOKENIZER, stop)
    pushed = [detokenizer.push(token) for token in tokens]
    return pushed, detokenizer.finish(), detokenizer.stop_string


def test_text_is_released_at_once_when_nothing_can_stop_it() -> None:
    assert run(ids("Hello", " World"), []) == (["Hello", " World"], "", None)


def test_half_a_character_waits_for_the_rest() -> None:
    assert run(ids(b"\xe6\x97", b"\xa5x"), []) == (["", "日x"], "", None)
    assert run(list("👍".encode()), []) == (["", "", "", "👍"], "", None)


def test_half_a_character_at_the_end_is_replaced() -> None:
    assert run(ids("a", b"\xe6\x97"), []) == (["a", ""], "\ufffd", None)


def test_half_a_character_before_another_one_is_replaced() -> None:
    assert run(ids(b"\xe6\x97", "a"), []) == (["", "\ufffda"], "", None)


def test_a_stop_string_inside_a_token_cuts_it() -> None:
    assert run(ids("Hello", "wor"), ["el"]) == (["H", ""], "", "el")


def test_a_stop_string_may_span_tokens() -> None:
    assert run(ids("Hello", " World", "wor"), ["lo W"]) == (["Hel", "", ""], "", "lo W")


def test_what_might_begin_a_stop_string_is_held_until_it_does_not() -> None:
    assert run(ids("a\nUser", "a", ":"), ["\nUser:"]) == (["a", "\nUsera", ":"], "", None)


def test_what_was_held_is_released_at_the_end() -> None:
    assert run(ids("a\nUser"), ["\nUser:"]) == (["a"], "\nUser", None)


def test_a_stop_string_that_begins_again_within_itself_is_found() -> None:
    assert run([*b"aabaabaac"], ["aabaac"]) == (["", "", "", "", "", "aab", "", "", ""], "", "aabaac")
    assert run(ids("a", "a", "a", "b"), ["aab"]) == (["", "", "a", ""], "", "aab")


def test_the_earliest_match_wins() -> None:
    assert run(ids("Hello"), ["lo", "e"]) == (["H"], "", "e")
    assert run(ids("Hello"), ["ll", "lo"]) == (["He"], "", "ll")


def test_of_two_at_the_same_place_the_first_named_wins() -> None:
    assert run(ids("Hello"), ["ell", "el"])[2] == "ell"
    assert run(ids("Hello"), ["el", "ell"])[2] == "el"


def test_a_stop_string_may_be_the_whole_text() -> None:
    assert run(ids("END"), ["END"]) == ([""], "", "END")


def test_empty_stop_strings_stop_nothing() -> None:
    assert run(ids("Hello"), [""]) == (["Hello"], "", None)


def test_control_tokens_have_no_text() -> None:
    assert run([*ids("Hello"), CONTROL, *ids("ld!")], []) == (["Hello", "", "ld!"], "", None)


def test_a_stop_string_of_wide_characters_is_found_in_bytes() -> None:
    assert run([*ids("a"), *"日👍".encode()], ["日👍"]) == (["a", "", "", "", "", "", "", ""], "", "日👍")


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_resumed_detokenizer_goes_on_where_the_other_stopped(cut: int) -> None:
    tokens = ids("Hello", b"\xe6\x97", b"\xa5x", "a\nUser", ":", "wor", "👍", "END")
    whole = Detokenizer(TOKENIZER, ["\nUser:w", "ENDE"])
    expected = [whole.push(token) for token in tokens][cut:]
    resumed = Detokenizer(TOKENIZER, ["\nUser:w", "ENDE"], tokens[:cut])
    assert [resumed.push(token) for token in tokens[cut:]] == expected
    assert (resumed.finish(), resumed.stop_string) == (whole.finish(), whole.stop_string)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, CONTROL), max_size=40))
def test_all_that_is_released_is_the_text_of_all_tokens(tokens: list[int]) -> None:
    pushed, rest, _ = run(tokens, [])
    assert "".join(pushed) + rest == TOKENIZER.decode(tokens, special=False)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab👍", max_size=30), st.lists(st.text(alphabet="ab👍", min_size=1, max_size=4), max_size=3))
def test_byte_by_byte_no_stop_string_is_ever_sent(text: str, stop: list[str]) -> None:
    pushed, rest, found = run(list(text.encode()), stop)
    sent = "".join(pushed) + rest
    assert text.startswith(sent)
    assert not any(string in sent for string in stop)
    assert (found is None) == (sent == text)
    if found is not None:
        assert text.startswith(sent + found)
