"""Which tokens end a generation, and which are control tokens although the file says otherwise."""

import pytest

from tests.worker.text.vocabularies import byte_level
from worker.metadata import TOKENIZER, Entries
from worker.text.tokenizer import Tokenizer
from worker.text.vocabulary import Kind, Vocabulary


def eog_texts(*control: str, **ids: int) -> set[str]:
    metadata = byte_level(control=control) | {f"tokenizer.ggml.{role}_token_id": token for role, token in ids.items()}
    vocabulary = Vocabulary(Entries(metadata, TOKENIZER), {})
    return {vocabulary.texts[token] for token in vocabulary.eog_ids}


def test_named_ids_end_a_generation() -> None:
    assert eog_texts("<x>", "<y>", "<z>", eos=256, eot=257, eom=258) == {"<x>", "<y>", "<z>"}


@pytest.mark.parametrize(
    "text",
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<eos>", "<EOT>"],
)
def test_well_known_texts_end_a_generation(text: str) -> None:
    assert eog_texts(text, "<|im_start|>") == {text}


def test_a_well_known_text_becomes_control_whatever_the_file_says() -> None:
    tokenizer = Tokenizer(byte_level(user=["<|im_end|>"]))
    assert tokenizer.piece(256, special=False) == b""
    assert 256 not in tokenizer.encode("<|im_end|>", parse_special=False)


def test_the_end_of_a_message_does_not_end_a_harmony_generation() -> None:
    assert eog_texts("<|end|>", "<|return|>", "<|call|>") == {"<|return|>", "<|call|>"}
    assert eog_texts("<|end|>", "<|return|>") == {"<|end|>", "<|return|>"}


def test_the_old_end_of_text_does_not_end_a_generation_beside_tool_responses() -> None:
    assert eog_texts("</s>", "<|tool_response>") == {"<|tool_response>"}


def test_fill_in_the_middle_padding_ends_a_generation() -> None:
    assert eog_texts("<|fim_pad|>", "<|fim_prefix|>", "<|file_sep|>") == {"<|fim_pad|>", "<|file_sep|>"}


def test_ids_outside_the_vocabulary_count_for_nothing() -> None:
    entries = Entries(byte_level() | {"tokenizer.ggml.eos_token_id": 4000}, TOKENIZER)
    assert Vocabulary(entries, {"bos": 9999}).roles == {}


def test_harmony_channels_stay_visible() -> None:
    tokenizer = Tokenizer(byte_level(control=["<|channel|>"]))
    assert tokenizer.piece(256, special=False) == b"<|channel|>"


def test_tokens_that_are_no_utf8_keep_their_bytes() -> None:
    metadata = byte_level(control=["<|a|>"])
    metadata["tokenizer.ggml.tokens"][256] = b"\xff\xfe"
    assert Tokenizer(metadata).piece(256) == b"\xff\xfe"


def test_an_empty_token_gets_a_name() -> None:
    metadata = byte_level(control=["<|a|>"])
    metadata["tokenizer.ggml.tokens"][256] = b""
    assert Vocabulary(Entries(metadata, TOKENIZER), {}).texts[256] == "[EMPTY_256]"


def test_kinds_outside_the_table_are_undefined() -> None:
    metadata = byte_level(["x y"])
    metadata["tokenizer.ggml.token_type"][256] = 77
    assert Vocabulary(Entries(metadata, TOKENIZER), {}).kinds[256] == Kind.UNDEFINED
    assert Tokenizer(metadata).piece(256) == b""
