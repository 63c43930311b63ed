from datetime import UTC, datetime
from pathlib import Path

import pytest

from router.config import AliasConfig, FallbackConfig, LimitsConfig, Reason, Scope, ShadowConfig, WorkerTls
from router.configfile.problems import ConfigError
from router.configfile.reading import FileConfig, read_text

FILE = Path("/etc/corral/corral.toml")


def read(text: str) -> FileConfig:
    config = read_text(text, FILE)
    assert config.problems is not None
    config.problems.check()
    return config


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert refused.value.exit_code == 2
    return [str(problem).removeprefix(f"{FILE}:") for problem in refused.value.problems]


def test_an_empty_file_says_nothing() -> None:
    config = read("")
    assert (config.server, config.models, config.aliases, config.keys) == ({}, (), (), ())
    assert config.limits == LimitsConfig()


def test_server_settings_are_the_flags_by_their_long_names() -> None:
    server = read('[server]\nport = 80\nctx_size = 4096\nmetrics = true\nno-slots = true\nhost = "::1"').server
    assert {key: value.texts for key, value in server.items()} == {
        "port": ("80",),
        "ctx_size": ("4096",),
        "metrics": ("on",),
        "slots": ("off",),
        "host": ("::1",),
    }
    assert server["port"].where == f"{FILE}:2: server.port"


def test_files_are_relative_to_the_file_that_names_them() -> None:
    config = read('[server]\nlog-file = "gateway.log"\n[models.a]\npath = "weights/a.gguf"\n[keys]\nfile = "keys.toml"')
    assert config.server["log_file"].texts == ("/etc/corral/gateway.log",)
    assert config.models[0].path == Path("/etc/corral/weights/a.gguf")
    assert config.keys_file == Path("/etc/corral/keys.toml")


def test_a_model_has_settings_and_worker_flags() -> None:
    [model] = read(
        '[models.a]\npath = "a.gguf"\nreplicas = 2\nttl = "1h30m"\npin = true\nworker = {ctx-size = 1, mlock = true}'
    ).models
    assert model.settings == {"replicas": 2, "ttl": 5400.0, "pin": True}
    assert model.worker["ctx_size"].texts == ("1",)


def test_an_alias_has_a_short_form_and_a_whole_one() -> None:
    text = """
    [aliases]
    short = "a"
    [aliases.long]
    targets = { a = 9, b = 1 }
    defaults = { temperature = 0.5 }
    forced = { top_k = 1 }
    fallbacks = ["c", { to = "d", on = "context" }]
    shadow = { to = "e", fraction = 0.5 }
    hidden = true
    """
    assert read(text).aliases == (
        AliasConfig("short", (("a", 1.0),)),
        AliasConfig(
            "long",
            (("a", 9.0), ("b", 1.0)),
            defaults={"temperature": 0.5},
            forced={"top_k": 1},
            fallbacks=(FallbackConfig("c"), FallbackConfig("d", frozenset({Reason.CONTEXT}))),
            shadow=ShadowConfig("e", 0.5),
            hidden=True,
        ),
    )


def test_a_key_may_infer_and_nothing_else_unless_it_says_so() -> None:
    digest = "ab" * 32
    plain, whole = read(
        f'[keys.plain]\nsha256 = "{digest}"\n[keys.whole]\nsha256 = "{digest}"\nscopes = ["admin", "metrics"]\n'
        'expires = 2030-12-31\nrequests-per-minute = 5\nmodels = ["a*"]'
    ).keys
    assert (plain.name, plain.digest, plain.scopes) == ("plain", bytes.fromhex(digest), {Scope.INFER})
    assert whole.scopes == {Scope.ADMIN, Scope.METRICS}
    assert whole.expires == datetime(2030, 12, 31, tzinfo=UTC)
    assert (whole.requests_per_minute, whole.tokens_per_minute, whole.models) == (5, None, ("a*",))


def test_every_mistake_is_told_with_its_line_and_the_nearest_name() -> None:
    text = """[server]
prot = 80
port = "x"
metrics = 1
config = "other.toml"
[model.a]
[models.b]
pathh = "b.gguf"
worker = { port = 1, ctx-sise = 4 }
[aliases]
c = 3
d = {}
e = { targets = { a = -1 } }
f = { target = "a", fallbacks = [{ on = "context" }], shadow = { fraction = 2 } }
[keys.k]
scopes = ["everything"]
[limits]
queue = -1
[balance]
policy = "random"
"""
    assert problems(text) == [
        "2: server.prot: no such flag; did you mean 'port'?",
        "3: server.port: expected a whole number, but got 'x'",
        "4: server.metrics: expected true or false, but got 1",
        "5: server.config: this is for the command line only",
        "6: model: no such section; did you mean 'models'?",
        "7: models.b: give `path`, `workers`, or both",
        "8: models.b.pathh: no such setting; did you mean 'path'?",
        "9: models.b.worker.port: this is a setting of the whole gateway; it belongs under [server]",
        "9: models.b.worker.ctx-sise: no such flag; did you mean 'ctx-size'?",
        "11: aliases.c: expected a table, but got 3",
        "11: aliases.c: give one of `target` and `targets`",
        "12: aliases.d: give one of `target` and `targets`",
        "13: aliases.e.targets.a: expected a weight above 0, at most 1000",
        "14: aliases.f.fallbacks.0: 'to' is missing",
        "14: aliases.f.shadow.fraction: expected a number above 0, at most 1, but got 2",
        "14: aliases.f.shadow: 'to' is missing",
        "15: keys.k: 'sha256' is missing",
        "16: keys.k.scopes: expected one or more of infer, admin, metrics, but got ['everything']",
        "18: limits.queue: expected a whole number from 0 to 1000000, but got -1",
        "20: balance.policy: expected one of least-tokens, prefix, two-choices, session, round-robin, but got 'random'",
    ]


@pytest.mark.parametrize(("text", "line"), [("a = ", 1), ("[x]\na = 1\na = 2", 3), ("\n\n[x", 3), ('a = """', 1)])
def test_a_text_that_is_no_toml_is_told_with_its_line(text: str, line: int) -> None:
    [problem] = problems(text)
    assert problem.startswith(f"{line}: not valid TOML: ")


def test_a_flag_set_twice_by_two_of_its_names_is_a_mistake() -> None:
    assert problems("[server]\nslots = true\nno-slots = true") == ["3: server.no-slots: the same setting as 'slots'"]


def test_a_model_may_have_workers_on_other_hosts_and_how_they_are_reached() -> None:
    [model] = read(
        '[models.big]\nworkers = ["10.0.0.7:9000", "dns:///big:9000"]\ntoken-file = "token"\n'
        'tls = { ca = "ca.crt", cert = "/c.crt", key = "c.key", server-name = "worker" }'
    ).models
    assert model.path is None
    folder = FILE.parent
    assert model.settings == {
        "workers": ("10.0.0.7:9000", "dns:///big:9000"),
        "token_file": folder / "token",
        "tls": WorkerTls(folder / "ca.crt", Path("/c.crt"), folder / "c.key", "worker"),
    }
    [both] = read('[models.both]\npath = "a.gguf"\nworkers = "w:1"\nreplicas = 2').models
    assert (both.path, both.settings) == (folder / "a.gguf", {"workers": ("w:1",), "replicas": 2})


def test_mistakes_about_workers_on_other_hosts_are_told() -> None:
    text = """[models.a]
workers = "nowhere"
[models.b]
workers = ["w:1", "w:1"]
replicas = 2
[models.c]
path = "c.gguf"
tls = {}
[models.d]
workers = "w:1"
tls = { cert = "x", cas = "y" }
"""
    assert problems(text) == [
        "2: models.a.workers: expected workers as HOST:PORT, dns:///NAME:PORT or unix:PATH, but got 'nowhere'",
        "4: models.b.workers: expected each address once, but got ['w:1', 'w:1']",
        "5: models.b.replicas: this is for a model with a `path`",
        "8: models.c.tls: this is for `workers`, of which there are none",
        "11: models.d.tls.cas: no such setting; did you mean 'ca'?",
        "11: models.d.tls: `cert` and `key` go together",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[server]\n[models.m]\npath = "\\u0000"', "3: models.m.path: a NUL character"),
        ('[models."\\u0000"]\npath = "a"', "1: models."),
        ('[models.m]\npath = "a"\nnames = ["b", "c\\u0000"]', "3: models.m.names.1: a NUL character"),
        (f"x = {'[' * 20_000}", " tables and arrays may nest 32 deep"),
        (f"x = {'[' * 200}{']' * 200}", " tables and arrays may nest 32 deep"),
        (f"[{'.'.join('a' * 5000)}]", " tables and arrays may nest 32 deep"),
        (f"x = {'1' * 10_000}", " not valid TOML: "),
    ],
    ids=["path", "name", "in a list", "arrays", "readable arrays", "tables", "digits"],
)
def test_what_no_reader_could_bear_is_refused_like_any_mistake(text: str, problem: str) -> None:
    [found, *_] = problems(text)
    assert found.startswith(problem)
