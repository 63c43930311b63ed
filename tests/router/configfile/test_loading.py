"""corral.toml, presets, folders and flags together, and the commands that look at them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from router.configfile.command import main
from router.configfile.diff import differences
from router.configfile.loading import load
from router.configfile.problems import ConfigError
from router.configfile.schema import schema
from router.errors import CommandError
from router.options.flags import parse
from tests.router.configfile.configurations import TOML, arguments, configured
from tests.secretfiles import write_secret

ROOT = Path(__file__).resolve().parents[3]


def test_the_file_in_the_working_folder_is_read_and_said_to_be(files: Path) -> None:
    config = configured()
    assert config.port == 1111
    assert arguments(config) == {"small": "--ctx-size 200 --parallel 3", "big": "--ctx-size 100"}
    assert "configuration: corral.toml" in config.notes


def test_a_flag_beats_a_variable_a_variable_the_file_and_the_file_the_default(files: Path) -> None:
    environment = {"LLAMA_ARG_CTX_SIZE": "300", "CORRAL_PORT": "2222"}
    assert configured("", environment).port == 2222
    assert configured("--port 3333", environment).port == 3333
    assert arguments(configured("", environment)) == {"small": "--ctx-size 300 --parallel 3", "big": "--ctx-size 300"}
    assert "--ctx-size 400" in arguments(configured("-c 400", environment))["small"]


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ("x.gguf", '[models.x]\npath = "x.gguf"\n'),
        ("token", '[models.x]\nworkers = ["h:1"]\ntoken-file = "token"\n'),
        ("ca.crt", '[models.x]\nworkers = ["h:1"]\ntls = { ca = "ca.crt" }\n'),
        ("keys.toml", '[keys]\nfile = "keys.toml"\n'),
        ("folder", '[server]\nmodels-dir = "folder"\n'),
        ("presets.ini", '[server]\nmodels-preset = "presets.ini"\n'),
        ("keys.txt", '[server]\napi-key-file = "keys.txt"\n'),
        ("corral.toml", "[models.small]\npaths = 1\n"),
    ],
)
def test_a_refusal_says_which_file_it_is_for_so_that_it_can_be_awaited(files: Path, named: str, text: str) -> None:
    (files / "corral.toml").write_text(f'{text}[models.a]\npath = "a.gguf"\n')
    with pytest.raises(CommandError) as refused:
        configured()
    assert refused.value.file is not None and refused.value.file.absolute() == files / named


def test_another_file_can_be_named(files: Path) -> None:
    (files / "other.toml").write_text('[models.x]\npath = "c.gguf"')
    assert [model.name for model in configured("--config other.toml").models] == ["x"]
    assert [model.name for model in configured("", {"CORRAL_CONFIG": "other.toml"}).models] == ["x"]
    with pytest.raises(CommandError, match=r"cannot read --config absent.toml: No such file"):
        configured("--config absent.toml")


def test_models_of_flags_join_those_of_the_file(files: Path) -> None:
    config = configured("-m c.gguf --alias tiny=a.gguf")
    assert [(model.path.name, model.names) for model in config.models] == [
        ("c.gguf", ("c",)),
        ("a.gguf", ("small", "tiny")),
        ("b.gguf", ("big",)),
    ]


def test_a_value_out_of_range_is_told_by_its_place_in_the_file(files: Path) -> None:
    (files / "corral.toml").write_text(TOML.replace("1111", "111111"))
    with pytest.raises(CommandError, match=r"corral.toml:3: server.port must be between 0 and 65535"):
        configured()


def test_an_alias_of_a_model_that_is_not_there_is_told_by_its_place(files: Path) -> None:
    (files / "corral.toml").write_text(TOML.replace('"small"', '"smal"'))
    with pytest.raises(ConfigError, match=r"corral.toml:10: .*no model is called 'smal'; did you mean 'small'\?"):
        configured()


def test_a_flag_without_which_answers_would_be_others_is_refused_in_a_file_too(files: Path) -> None:
    (files / "corral.toml").write_text(TOML.replace("parallel = 3", 'grammar-file = "x", list-devices = true'))
    with pytest.raises(ConfigError) as refused:
        configured()
    assert [str(problem) for problem in refused.value.problems] == [
        "corral.toml:6: models.small.worker.grammar-file: answers are not held to a grammar in this version; "
        "leave it out, and check them where they are used",
        "corral.toml:6: models.small.worker.list-devices: this is for the command line only",
    ]


# ---- corral config ----------------------------------------------------------------------------


def test_the_example_in_deploy_is_good(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = files / "example.toml"
    example.write_text((ROOT / "deploy/corral.toml").read_text())
    (files / "models").mkdir()
    for name in ("smollm2.gguf", "gemma3.gguf"):
        (files / "models" / name).write_bytes(b"GGUF")
    assert main(["check", str(example)]) == 0
    assert "2 models, 3 aliases, 0 keys: good" in capsys.readouterr().out


def test_check_prints_every_mistake(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "corral.toml").write_text('[server]\nprot = 1\n[limits]\nqueue = "x"\n')
    assert main(["check"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: corral.toml:2: server.prot: no such flag; did you mean 'port'?",
        "error: corral.toml:4: limits.queue: expected a whole number from 0 to 1000000, but got 'x'",
        "error: no model: give one with -m FILE (`corral pull smollm2` fetches a small one)",
    ]


def test_check_prints_mistakes_of_every_kind_at_once(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, names that lead nowhere, fields of requests, values of flags."""
    (files / "corral.toml").write_text(
        TOML.replace("port = 1111", "port = 111111").replace('path = "b.gguf"', 'path = "b.gguf"\nreplica = 2')
        + '[aliases.x]\ntarget = "smal"\ndefaults = { temprature = 1 }\n'
    )
    assert main(["check"]) == 2
    told = capsys.readouterr().err
    for mistake in (
        "corral.toml:9: models.big.replica: no such setting; did you mean 'replicas'?",
        "corral.toml:12: aliases.x.targets: no model is called 'smal'; did you mean 'small'?",
        "corral.toml:14: aliases.x.defaults: no such field of a request: 'temprature'",
    ):
        assert mistake in told
    (files / "corral.toml").write_text((files / "corral.toml").read_text().replace('smal"', 'small"'))
    assert main(["check"]) == 2
    told = capsys.readouterr().err
    assert "corral.toml:3: server.port must be between 0 and 65535" in told and "replica" in told


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("defaults = { temprature = 1 }", "no such field of a request: 'temprature'; did you mean 'temperature'?"),
        ('defaults = { temperature = "hot" }', "Field 'temperature': expected a number"),
        ('forced = { model = "x" }', "'model' is for the client to say"),
    ],
)
def test_check_knows_the_fields_of_requests(
    files: Path, capsys: pytest.CaptureFixture[str], overlay: str, message: str
) -> None:
    (files / "corral.toml").write_text(TOML + f'[aliases.x]\ntarget = "small"\n{overlay}\n')
    assert main(["check"]) == 2
    assert f"corral.toml:13: aliases.x.{overlay.split()[0]}: {message}" in capsys.readouterr().err


def test_explain_names_the_origin_of_every_value(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "chat", "-b", "64", "--temp", "0.5"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["ctx-size"] == ["200", "corral.toml:6:", "models.small.worker.ctx-size"]
    assert rows["batch-size"] == ["64", "-b"]
    assert rows["threads"] == ["default"]
    assert rows["temperature"] == ["0.5", "--temp"]
    assert rows["replicas"] == ["1", "default"]
    assert main(["explain", "smal"]) == 2
    assert "did you mean 'small'?" in capsys.readouterr().err


def test_diff_tells_what_a_reload_would_do(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = TOML.replace("parallel = 3", "parallel = 4").replace('chat = "small"', 'chat = "new"').replace("1111", "2")
    new = new.replace("[models.big]", "[models.new]") + "[limits]\nqueue = 1\n"
    (files / "new.toml").write_text(new)
    assert main(["diff", "corral.toml", "new.toml"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "model big: stop",
        "model small (worker-arguments): warm replace",
        "model new: start",
        "alias chat changed: in place",
        "port: restart",
        "limits: in place",
    ]
    assert main(["diff", "corral.toml", "corral.toml"]) == 0


def test_replicas_come_and_go_beside_those_that_stay(files: Path) -> None:
    one = configured()
    three = replace(one, models=(replace(one.models[0], replicas=3), one.models[1]))
    assert list(map(str, differences(one, three))) == ["model small, 2 of 3 workers: start"]
    assert list(map(str, differences(three, one))) == ["model small, 2 of 3 workers: stop"]


def test_the_schema_knows_every_section_and_flag() -> None:
    properties = schema()["properties"]
    assert set(properties) == {"server", "models", "aliases", "keys", "limits", "balance"}
    assert properties["server"]["properties"]["ctx-size"]["type"] == ["integer", "array"]
    assert "port" not in properties["models"]["additionalProperties"]["properties"]["worker"]["properties"]


def test_the_command_ends_with_its_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "router", "config", "nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: corral config check")


REMOTE = """[models.big]
workers = ["10.0.0.7:9000"]
token-file = "token"
tls = { server-name = "w" }
"""


def test_workers_on_other_hosts_come_and_go_and_how_they_are_reached_changes_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_secret(tmp_path / "token", "x")
    (tmp_path / "corral.toml").write_text(REMOTE)
    (tmp_path / "new.toml").write_text(
        REMOTE.replace('"10.0.0.7:9000"', '"10.0.0.8:9000"').replace('{ server-name = "w" }', "{}")
    )
    assert main(["diff", "corral.toml", "new.toml"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "model big (workers, tls): in place",
        "model big, worker 10.0.0.8:9000: connect",
        "model big, worker 10.0.0.7:9000: leave",
    ]
    assert main(["explain", "big"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["path"] == ["none", "corral.toml:1:", "models.big"]
    assert rows["workers"][0] == "10.0.0.7:9000" and rows["tls"][0] == "server-name=w"
    assert rows["token-file"][0] == str(tmp_path / "token")


def test_files_for_workers_on_other_hosts_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corral.toml").write_text(REMOTE)
    assert main(["check"]) == 2
    assert f"cannot read token-file {tmp_path / 'token'}" in capsys.readouterr().err
    write_secret(tmp_path / "token", "x").chmod(0o640)
    assert main(["check"]) == 2
    assert "(mode 0640)" in capsys.readouterr().err


def test_the_schema_asks_for_a_path_or_workers() -> None:
    model = schema()["properties"]["models"]["additionalProperties"]
    assert model["anyOf"] == [{"required": ["path"]}, {"required": ["workers"]}]
    assert set(model["properties"]["tls"]["properties"]) == {"ca", "cert", "key", "server-name", "server_name"}


@pytest.mark.parametrize("line", ["--help", "-h", "check --help", "explain --help", "explain small -h", "diff --help"])
def test_help_is_given_wherever_it_is_asked_for(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    assert capsys.readouterr().out.startswith("usage: corral config")


def test_check_without_a_file_asks_for_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "corral.toml").unlink()
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "error: no ./corral.toml; say which: corral config check FILE\n"


HOLDING = (
    '[keys.a]\nsha256 = "' + "0" * 64 + '"\n',
    '[server]\napi-key = "one"\n',
    '[server]\nredis = "redis://:pw@h/0"\n',
    '[server]\nredis = "unix:///run/redis.sock?password=pw"\n',
)


def test_the_address_of_a_redis_without_a_password_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    file.write_text('[server]\nredis = "redis://h/0"\n')
    file.chmod(0o644)
    assert load(parse(["--config", str(file)], {})).server


@pytest.mark.parametrize("holding", HOLDING)
def test_a_configuration_with_a_secret_in_it_must_be_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_secret("corral.toml", holding)
    load(parse([], {}))
    file.chmod(0o644)
    with pytest.raises(CommandError, match=r"mode 0644.*chmod 600 corral\.toml"):
        load(parse([], {}))
