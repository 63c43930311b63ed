"""llama-server's INI presets and folders of models: what they say, and what is wrong with them."""

from pathlib import Path

import pytest

from router.configfile.command import main
from router.configfile.problems import ConfigError
from tests.router.configfile.configurations import TOML, arguments, configured


def test_a_folder_of_models_is_served_by_their_stems(files: Path) -> None:
    folder = files / "models"
    (folder / "split").mkdir(parents=True)
    (folder / "ambiguous").mkdir()
    for name in ("one.gguf", "split/x-00001-of-00002.gguf", "split/x-00002-of-00002.gguf", "split/mmproj-x.gguf"):
        (folder / name).write_bytes(b"GGUF")
    for name in ("ambiguous/a.gguf", "ambiguous/b.gguf", "notes.txt"):
        (folder / name).write_bytes(b"")
    (files / "corral.toml").unlink()
    models = configured("--models-dir models").models
    assert {model.name: model.path.name for model in models} == {"one": "one.gguf", "split": "x-00001-of-00002.gguf"}
    assert not any(model.load_on_start for model in models)


def test_presets_are_llama_servers(files: Path) -> None:
    (files / "corral.toml").unlink()
    (files / "presets.ini").write_text(
        "version = 1\n; comment\n[*]\nc = 100\nparallel = 2\n\n"
        f"[one]\nmodel = {files}/a.gguf\nLLAMA_ARG_CTX_SIZE = 200\nalias = uno,eins\nload-on-startup = true\n"
        "n-gpu-layers = 99\n[c]\n"
    )
    one, c = configured(f"--models-preset presets.ini --models-dir {files}").models[:2]
    assert (one.names, one.worker_arguments) == (("one", "uno", "eins"), ("--ctx-size", "200", "--parallel", "2"))
    assert (c.path.name, c.load_on_start, one.load_on_start) == ("c.gguf", False, True)
    assert "--parallel 5" in arguments(configured("--models-preset presets.ini --models-dir . -np 5"))["one"]


def test_todays_flags_work_in_presets_and_files_and_a_flag_beats_them(files: Path) -> None:
    (files / "corral.toml").write_text('[server]\nreasoning-effort = "low"\nreverse-prompt = ["a", "b"]\n')
    (files / "p.ini").write_text(
        "[one]\nmodel = a.gguf\nrea = off\nLLAMA_ARG_CHAT_TEMPLATE_FILE = /chat.jinja\nspec-draft-n-max = 7\n"
    )
    (one,) = configured("--models-preset p.ini").models
    assert one.worker_arguments == ("--spec-draft-n-max", "7", "--chat-template-file", "/chat.jinja")
    assert one.sampling == {
        "stop": ["a", "b"],
        "chat_template_kwargs": {"reasoning_effort": "low", "enable_thinking": False},
    }
    (one,) = configured("--models-preset p.ini -rea on --draft-max 5").models
    assert one.sampling["chat_template_kwargs"]["enable_thinking"] is True
    assert "--spec-draft-n-max 5" in " ".join(one.worker_arguments)


def test_mistakes_in_presets_have_lines_too(files: Path) -> None:
    (files / "presets.ini").write_text("[one]\nmodel = a.gguf\nctx-sise = 3\nnonsense\nport = 80\n[two]\nc = 1\n")
    with pytest.raises(ConfigError) as refused:
        configured("--models-preset presets.ini")
    assert [str(problem).removeprefix("presets.ini:") for problem in refused.value.problems] == [
        "3: one.ctx-sise: no such flag of a model; did you mean 'ctx-size'?",
        "4: expected [NAME] or KEY = VALUE, but got 'nonsense'",
        "5: one.port: this is a setting of the whole gateway",
        "6: two: no `model = FILE`, and no such file in --models-dir",
    ]


PRESETS = """[one]
model = a.gguf
load-on-start = true
mmap = perhaps
rea = maybe
load-on-startup = soon
lora = x.gguf
list-devices = true
[two]
model = ~nosuchuser/b.gguf
"""


def test_check_looks_at_presets_and_folders_without_a_corral_toml(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "corral.toml").unlink()
    (files / "good.ini").write_text("[one]\nmodel = a.gguf\nc = 100\n[c]\nngl = 9\n")
    assert main(["check", "--models-preset", "good.ini", "--models-dir", "."]) == 0
    assert capsys.readouterr().out == (
        "note: no effect: ngl (models run on the processor; there is no GPU backend)\n"
        "good.ini, .: 4 models, 0 aliases, 0 keys: good\n"
    )
    assert main(["check", "--models-dir", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: cannot read --models-dir nowhere: No such file or directory\n"


def test_check_prints_the_mistakes_of_presets_behind_those_of_corral_toml(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "corral.toml").write_text(f"{TOML}[server2]\n")
    (files / "bad.ini").write_text(PRESETS)
    assert main(["check", "--models-preset", "bad.ini"]) == 2
    words = "on, true, 1, yes, enabled, off, false, 0, no, disabled"
    assert capsys.readouterr().err.splitlines() == [
        "error: corral.toml:11: server2: no such section; did you mean 'server'?",
        "error: bad.ini:3: one.load-on-start: no such flag of a model; did you mean 'load-on-startup'?",
        f"error: bad.ini:4: one.mmap: must be one of {words}, but is 'perhaps'",
        "error: bad.ini:5: one.rea: must be one of on, off, auto, but is 'maybe'",
        f"error: bad.ini:6: one.load-on-startup: must be one of {words}, but is 'soon'",
        "error: bad.ini:7: one.lora: a model is served as its file is; merge the adapter into the file, and serve that",
        "error: bad.ini:8: one.list-devices: this is a setting of the whole gateway",
        "error: bad.ini:9: two.model: ~nosuchuser/b.gguf: nobody's home is ~nosuchuser",
    ]


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("model = nowhere.gguf", "good.ini:1: one: cannot read model {files}/nowhere.gguf: No such file or directory"),
        ("model = a.gguf\nc = -5", "good.ini:3: one.c must be between -1 and 16777215, but is -5"),
        ("model = a.gguf\nctk = f9",
         "good.ini:3: one.ctk must be one of f32, f16, bf16, q8_0, q4_0, but is 'f9'"),
        ("model = a.gguf\ntemp = hot", "good.ini:3: one.temp must be a number, but is 'hot'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_value_of_a_preset_is_told_by_its_line(
    files: Path, capsys: pytest.CaptureFixture[str], preset: str, told: str
) -> None:
    (files / "corral.toml").unlink()
    (files / "good.ini").write_text(f"[one]\n{preset}\n")
    assert main(["check", "--models-preset", "good.ini"]) == 2
    assert capsys.readouterr().err == f"error: {told.format(files=files)}\n"
