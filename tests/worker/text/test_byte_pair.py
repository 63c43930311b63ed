"""Merging in odd vocabularies: missing bytes, useless and repeated merges, tokens that merges cannot build."""

import threading

from tests.worker.text.vocabularies import byte_level, spell
from worker.text.tokenizer import Tokenizer


def ids_of(text: str, merges: list[str], words: list[str], pre: str = "gpt-2") -> list[int]:
    metadata = byte_level(words) | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    metadata["tokenizer.ggml.merges"] = [merge.encode() for merge in merges]
    return Tokenizer(metadata).encode(text)


def test_earlier_merges_win() -> None:
    assert ids_of("abc", ["b c", "a b"], ["ab", "bc"]) == [ord("a"), 257]
    assert ids_of("abc", ["a b", "b c"], ["ab", "bc"]) == [256, ord("c")]


def test_the_first_mention_of_a_merge_counts() -> None:
    assert ids_of("abc", ["a b", "b c", "a b"], ["ab", "bc"]) == [256, ord("c")]


def test_merges_that_build_no_token_are_ignored() -> None:
    assert ids_of("abc", ["a b", "zz zz", "b c"], ["bc"]) == [ord("a"), 256]


def test_a_word_that_is_a_token_is_taken_whole_where_the_family_says_so() -> None:
    assert ids_of("hello", ["h e"], ["he", "hello"], pre="llama-bpe") == [257]
    assert ids_of("hello", ["h e"], ["he", "hello"]) == [256, *b"llo"]


def test_a_byte_without_a_token_is_dropped_but_keeps_its_neighbours_apart() -> None:
    metadata = byte_level(["ab"]) | {"tokenizer.ggml.merges": [b"a b"]}
    metadata["tokenizer.ggml.tokens"][ord("x")] = b"no longer the letter x"
    assert Tokenizer(metadata).encode("axb") == [ord("a"), ord("b")]
    assert Tokenizer(metadata).encode("ab") == [256]


def test_bytes_that_do_not_print_are_spelled_with_other_characters() -> None:
    assert (spell(" "), spell("\n"), spell(b"\xff"), spell("A")) == ("Ġ", "Ċ", "ÿ", "A")


def test_other_threads_go_on_while_a_long_text_is_read() -> None:
    tokenizer = Tokenizer(byte_level([]) | {"tokenizer.ggml.merges": []})
    turns, ended = [0], threading.Event()

    def count() -> None:
        while not ended.wait(0.001):
            turns[0] += 1

    other = threading.Thread(target=count)
    other.start()
    before = turns[0]
    tokenizer.encode("a word " * 100_000)
    during = turns[0] - before
    ended.set()
    other.join()
    assert during >= 10
