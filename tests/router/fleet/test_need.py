from pathlib import Path

from router.config import ModelConfig
from router.fleet.footprint import footprint
from router.fleet.need import MemoryNeed
from tests.tiny_models import MODELS, write_model

GIB = 1 << 30


def test_what_workers_share_counts_once_and_less_than_foretold_counts_for_nothing(tmp_path: Path) -> None:
    model = ModelConfig(write_model(tmp_path / "tiny.gguf", MODELS["llama"]), ("a",), replicas=2)
    foretold, need = footprint(model, forked=True), MemoryNeed(forked=True)
    assert need.estimate(model) == foretold.of(2), "nobody has told"
    need.measure(model, [GIB, None])
    need.measure(model, [])
    assert need.estimate(model) == foretold.of(2), "not all have told"
    need.measure(model, [foretold.shared + GIB, foretold.shared + GIB])
    assert need.estimate(model) == foretold.shared + 2 * GIB
    need.measure(model, [1, 1])
    assert need.estimate(model) == foretold.of(2), "caches that are empty"
    need.measure(model, [GIB, GIB])
    need.forget()
    assert need.estimate(model) == foretold.of(2)
