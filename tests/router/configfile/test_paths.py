"""Paths that cannot be, in files and on command lines, end in one line that says where they stand."""

import os
from pathlib import Path

import pytest

from router.configfile.command import main
from router.configfile.loading import load
from router.errors import CommandError
from router.options.flags import parse
from router.options.settings import gateway_config
from tests.router.configfile.configurations import configured


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[models.x]\npath = "~nosuchuser/x"', "corral.toml:2: models.x.path: ~nosuchuser/x: "
         "nobody's home is ~nosuchuser"),
        ('[models.x]\npath = ""', "corral.toml:2: models.x.path: expected a text, but got ''"),
        ('[models.x]\npath = "."', "corral.toml:1: models.x: cannot read model {files}: Is a directory"),
        ('[models.x]\npath = "/dev/zero"', "corral.toml:1: models.x: cannot read model /dev/zero: "
         "Not a regular file"),
        ('[models.x]\npath = "folder/pipe"', "corral.toml:1: models.x: cannot read model {files}/folder/pipe: "
         "Not a regular file"),
        ('[models.x]\nworkers = ["h:1"]\ntoken-file = "~nosuchuser"\ntls = {{ ca = "~nosuchuser" }}',
         "corral.toml:3: models.x.token-file: ~nosuchuser: nobody's home is ~nosuchuser"),
        ('[keys]\nfile = "~nosuchuser/k"', "corral.toml:2: keys.file: ~nosuchuser/k: nobody's home is ~nosuchuser"),
        ('[server]\nmodels-dir = ""', "corral.toml:2: server.models-dir: the path is empty"),
        ('[server]\nkv-store = "~nosuchuser/k"', "corral.toml:2: server.kv-store: ~nosuchuser/k: "
         "nobody's home is ~nosuchuser"),
    ],
)  # fmt: skip
def test_a_path_of_a_file_that_cannot_be_is_told_with_its_line(
    files: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    (files / "folder").mkdir()
    os.mkfifo(files / "folder/pipe")
    (files / "corral.toml").write_text(text.format())
    assert main(["check"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {told.format(files=files)}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["-m", ""], "--model: the path is empty"),
        (["-m", "~nosuchuser/x"], "--model: ~nosuchuser/x: nobody's home is ~nosuchuser"),
        (["-m", "\udcff.gguf"], r"--model: '\udcff.gguf': a path must be UTF-8; rename the file"),
        (["--config", ""], "--config: the path is empty"),
        (["--config", "."], "cannot read --config .: Is a directory"),
        (["--models-dir", "odd"], r"'{files}/odd/\udcff.gguf': a path must be UTF-8; rename the file"),
        (["--alias", "x=~nosuchuser/x"], "~nosuchuser/x: nobody's home is ~nosuchuser"),
        (["--alias", "\udcff=a.gguf"], r"--alias '\udcff=a.gguf': a name must be UTF-8"),
        (["--log-file", "~nosuchuser"], "--log-file: ~nosuchuser: nobody's home is ~nosuchuser"),
        (["-md", "~nosuchuser/x"], "--model-draft: ~nosuchuser/x: nobody's home is ~nosuchuser"),
    ],
)
def test_a_path_of_a_command_line_that_cannot_be_is_told_with_its_flag(files: Path, line: list[str], told: str) -> None:
    (files / "odd").mkdir()
    (files / "odd" / "\udcff.gguf").write_bytes(b"GGUF")
    given = parse(line, {})
    with pytest.raises(CommandError) as refused:
        gateway_config(given, (), load(given))
    assert (str(refused.value), refused.value.exit_code) == (told.format(files=files), 2)


def test_paths_are_relative_to_the_folder_of_the_file_that_has_them(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(files))
    (files / "corral.toml").write_text('[models.x]\npath = "a.gguf"\n[models.y]\npath = "~/b.gguf"\n')
    monkeypatch.chdir("/")
    assert [model.path for model in configured(f"--config {files}/corral.toml").models] == [
        files / "a.gguf",
        files / "b.gguf",
    ]
