from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import MODELS, write_model
from worker.config import DraftConfig, WorkerConfig
from worker.context import Capacity
from worker.cores.lease import OwnCores
from worker.drafting.draft_load import OtherVocabulary, check_vocabulary, load_draft
from worker.gguf import GGUF
from worker.model.decoder import BLOCK_SIZE
from worker.sequence import Sequence

CAPACITY = Capacity(256, 20, BLOCK_SIZE, max_running=2, max_waiting=10, step_tokens=64, max_drafts=3)


def file(name: str, tokens: list[bytes], rows: int | None = None) -> Any:
    embedding = SimpleNamespace(shape=(rows or len(tokens), 8))
    return SimpleNamespace(
        path=Path(name), metadata={"tokenizer.ggml.tokens": tokens}, tensors={"token_embd.weight": embedding}
    )


@pytest.mark.parametrize(
    ("small", "problem"),
    [
        (file("b.gguf", [b"a", b"b"]), "its vocabulary has 2 tokens, not 3"),
        (file("b.gguf", [b"a", b"x", b"y"]), "its token 1 is 'x', not 'b'"),
        (file("b.gguf", [b"a", b"b", b"c"], rows=8), "its logits are for 8 tokens, not 3"),
    ],
)
def test_a_small_model_of_another_vocabulary_is_refused_with_what_differs_first(small, problem):
    said = f"--model-draft b.gguf: {problem}; it must have the vocabulary of a.gguf"
    with pytest.raises(OtherVocabulary, match=said):
        check_vocabulary(file("a.gguf", [b"a", b"b", b"c"]), small)


def test_a_small_model_of_the_same_vocabulary_is_accepted():
    check_vocabulary(file("a.gguf", [b"a", b"b"], rows=8), file("b.gguf", [b"a", b"b"], rows=8))


def test_a_small_model_guesses_with_a_cache_and_threads_of_its_own(tmp_path):
    large, small = (write_model(tmp_path / f"{name}.gguf", MODELS[name]) for name in ("llama", "smollm"))
    config = WorkerConfig(large, "", num_threads=2)
    draft = DraftConfig(small, context_length=128, num_threads=1, kv_type_k="f32", fewest=2)
    with GGUF.open(large) as gguf:
        loaded = load_draft(draft, config, CAPACITY, gguf, lambda stage, done: None)
    assert 0 < loaded.price < 2
    assert (loaded.limits.context_length, loaded.limits.num_blocks, loaded.limits.fewest) == (128, 8 + 3, 2)
    assert loaded.cache_bytes == 11 * loaded.decoder.block_bytes
    drafter = loaded.drafter(OwnCores())
    sequence = Sequence([5, 6, 7], (), 1000, shares_prefix=True)
    (guesses,) = drafter.propose({sequence: 3}).values()
    assert guesses.size >= 2 and guesses.dtype == np.int32
    assert loaded.decoder.thread_ids == []
    loaded.decoder.close()
