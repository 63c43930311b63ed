from pathlib import Path

from router.api.modelentry import preset
from router.configfile.presets import read_presets
from router.fleet.lifecycle import ModelState, ModelStatus


def status(path: Path | None, *arguments: str) -> ModelStatus:
    return ModelStatus("a:1", ("a:1", "b"), path, ModelState.UNLOADED, "", None, (), (), None, arguments, "preset")


def test_a_model_is_shown_as_a_preset_that_can_be_read_again(tmp_path: Path) -> None:
    shown = preset(status(Path("/models/a.gguf"), "--ctx-size", "512", "--no-mmap", "--threads", "-1", "--mlock"))
    assert shown == "[a:1]\nmodel = /models/a.gguf\nctx-size = 512\nno-mmap = on\nthreads = -1\nmlock = on\n\n"
    file = tmp_path / "presets.ini"
    file.write_text(shown)
    [entry] = read_presets(file, {})
    assert (entry.name, entry.path) == ("a:1", Path("/models/a.gguf"))
    texts = {key: value.texts for key, value in entry.worker.items()}
    assert texts == {"ctx_size": ("512",), "mmap": ("off",), "threads": ("-1",), "mlock": ("on",)}


def test_a_preset_without_flags_or_a_file_is_its_name() -> None:
    assert preset(status(Path("/models/a.gguf"))) == "[a:1]\nmodel = /models/a.gguf\n\n"
    assert preset(status(None)) == "[a:1]\n\n"
