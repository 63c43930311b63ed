"""What a worker plans for: how long a context it gives, how much memory that takes."""

import errno
import logging
from pathlib import Path

import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.worker.text.vocabularies import byte_level
from worker.config import RopeConfig, WorkerConfig
from worker.errors import ModelFileError, WorkerError
from worker.startup import TooLittleMemory, check_memory, plan, prepare, read_template, reserve, warn_of_context
from worker.text.tokenizer import Tokenizer


def config(context_length: int, **settings) -> WorkerConfig:
    return WorkerConfig(Path("f"), "", context_length=context_length, **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "^architecture 'bert' is not supported; supported: llama, qwen2"),
        (["llama"], r"^metadata key general\.architecture is \[b'llama'\], not a text$"),
    ],
    ids=str,
)
def test_another_architecture_is_told_before_what_is_unknown_because_of_it(tmp_path, name, message):
    told = {"general.architecture": name, "tokenizer.ggml.model": "bert"}
    path = write_tiny_llama(tmp_path / "model.gguf", metadata=told)
    with pytest.raises(ModelFileError, match=message):
        prepare(WorkerConfig(path, ""), lambda stage, done: None)


def test_a_template_of_the_command_line_stands_in_for_the_files(tmp_path):
    metadata = byte_level() | {"tokenizer.chat_template": "file"}
    tokenizer, file = Tokenizer(metadata), tmp_path / "chat.jinja"
    file.write_text("{{ 'of the file' }}")
    for settings, source in (
        ({}, "file"),
        ({"chat_template": "{{ 1 }}"}, "{{ 1 }}"),
        ({"chat_template": "{{ 1 }}", "chat_template_file": file}, "{{ 'of the file' }}"),
    ):
        assert read_template(config(0, **settings), metadata, tokenizer).source == source


def test_a_template_of_the_command_line_must_be_good(tmp_path):
    tokenizer, file = Tokenizer(byte_level()), tmp_path / "chat.jinja"
    file.write_bytes(b"\xff")
    with pytest.raises(WorkerError, match=f"^--chat-template-file {file}: not UTF-8$"):
        read_template(config(0, chat_template_file=file), {}, tokenizer)
    with pytest.raises(WorkerError, match=r"^--chat-template cannot be used: "):
        read_template(config(0, chat_template="{% if %}"), {}, tokenizer)


def test_the_cache_holds_the_context_once_and_a_block_for_each_sequence():
    capacity = plan(config(4096), trained=8192)
    assert (capacity.context_length, capacity.num_blocks, capacity.max_running) == (4096, 256 + 16, 16)


def test_no_sequence_goes_beyond_what_the_model_was_trained_for():
    capacity = plan(config(10000, max_running=2), trained=8192)
    assert (capacity.context_length, capacity.num_blocks) == (8192, 625 + 2)


@pytest.mark.parametrize("rope", [RopeConfig("yarn", scale=0.25), RopeConfig(scale=0.5), RopeConfig(base=1e6)])
def test_a_sequence_goes_as_far_as_asked_with_stretched_positions(rope):
    assert plan(config(16384, rope=rope), trained=8192).context_length == 16384


def test_a_scaling_that_stretches_nothing_gives_no_more_context():
    assert plan(config(16384, rope=RopeConfig("yarn")), trained=8192).context_length == 8192


def test_a_step_has_room_for_every_running_sequence():
    assert plan(config(0, step_tokens=4, max_running=8), trained=8192).step_tokens == 8


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        (RopeConfig(), "a request gets 8192 of the 20000 positions of --ctx-size"),
        (RopeConfig(scale=0.25), "--ctx-size 20000 goes beyond the 8192 positions"),
    ],
)
def test_a_context_beyond_the_trained_one_is_warned_of_with_both_numbers(caplog, rope, said):
    beyond = config(20000, rope=rope)
    with caplog.at_level(logging.WARNING):
        warn_of_context(beyond, plan(beyond, 8192), 8192)
    (record,) = caplog.records
    assert said in record.getMessage()


def test_a_context_within_the_trained_one_needs_no_warning(caplog):
    within = config(8192)
    warn_of_context(within, plan(within, 8192), 8192)
    assert not caplog.records


def test_a_context_beyond_the_memory_is_refused_with_one_that_fits():
    capacity = plan(config(1 << 40), trained=1 << 40)
    with pytest.raises(ModelFileError, match=r"needs .* GiB, .* GiB are free; try --ctx-size \d+"):
        check_memory(30 * 2 * 3 * 64 * 2 * 16, capacity)


def test_where_the_sequences_take_most_of_the_memory_it_is_their_number_that_is_to_be_smaller():
    capacity = plan(config(1024, max_running=1 << 40), trained=1024)
    with pytest.raises(TooLittleMemory, match=r"GiB are free; try --parallel \d+$"):
        check_memory(30 * 2 * 3 * 64 * 2 * 16, capacity)


class Full:
    """A decoder that the system refuses memory to, in one of its two ways or for another reason."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def reserve(self, *_) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"max_running": 20000}, r"of up to 20000 sequences; try a smaller --parallel than 20000$"),
        ({"step_tokens": 1 << 20}, r"steps of 1048576 tokens .* try a smaller --ubatch-size than 1048576$"),
        ({"step_tokens": 512}, r"a cache of 1280 positions .* try a smaller --ctx-size$"),
    ],
    ids=str,
)
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")], ids=repr)
def test_memory_that_the_system_refuses_is_told_with_the_flag_that_asks_for_it(error, settings, advice):
    with pytest.raises(TooLittleMemory, match=advice):
        reserve(Full(error), plan(config(1024, **settings), trained=1024))


def test_another_error_while_memory_is_taken_stays_what_it_is():
    with pytest.raises(PermissionError):
        reserve(Full(PermissionError(errno.EACCES, "no")), plan(config(1024), trained=1024))
