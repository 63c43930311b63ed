"""One call of pack_weights, and what came of it."""

from pathlib import Path

from worker.gguf import GGUF
from worker.model.weights import PackedWeights, pack_weights


class Packing:
    """What happened in a call of pack_weights: the bytes of every tensor, and how often progress was reported."""

    def __init__(self, model: Path, folder: Path | None, *, mapped: bool = True) -> None:
        self.reports: list[float] = []
        with GGUF.open(model) as gguf:
            weights = pack_weights(gguf, folder, self.reports.append, mapped=mapped)
        self.tensors = {name: contents(weights, name) for name in weights.tensors}
        weights.close()

    @property
    def packed(self) -> bool:
        """Whether anything was packed, not only mapped."""
        return bool(self.reports)


def contents(weights: PackedWeights, name: str) -> bytes:
    tensor = weights.tensors[name]
    if tensor.format is None:
        return weights.vector(name).tobytes()
    start = tensor.address - weights._view.ctypes.data
    matrix_bytes = tensor.format.matrix_bytes(tensor.num_rows, tensor.num_columns)
    return weights._view[start : start + tensor.num_matrices * matrix_bytes].tobytes()


def only_file(folder: Path) -> Path:
    """The one packed file of a folder, where nothing temporary is left either."""
    (path,) = folder.glob("*.panels")
    assert not list(folder.glob(".packing-*"))
    return path
