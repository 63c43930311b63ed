"""What `corral config schema` says of corral.toml, and that it says it of all of it."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from router.configfile.reading import read_text
from router.configfile.schema import schema
from tests.router.configfile.schemas import faults

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = schema()
GOOD = """
[server]
port = 80
models-max = 2
numa = true
mlock = true
temp = 0.5
sleep-idle-seconds = 1.5
api-key-file = ["a", "b"]
[models.a]
path = "a.gguf"
ttl = "10m"
worker = { ctx-size = 4096, flash_attn = "on", n-gpu-layers = 99 }
[models.b]
workers = "h:1"
tls = { server-name = "x" }
[aliases]
c = "a"
d = { targets = { a = 9, b = 0.5 }, fallbacks = ["b", { to = "a", on = "context" }], shadow = { to = "b" } }
[keys.k]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
scopes = ["infer"]
[limits]
queue = 0
[balance]
policy = "prefix"
"""


def uncommented(text: str) -> str:
    """With the settings in force that are commented out: headers, keys with values, and the rest of long arrays."""
    settings = re.sub(r'^# (?=\[[\w.-]+\]$|[\w-]+ = |  "|\]$)', "", text, flags=re.M)
    return settings.replace("…", "0" * 64)  # of a key


def test_the_example_in_deploy_is_as_the_schema_says_with_all_that_it_has_commented_out() -> None:
    text = (ROOT / "deploy/corral.toml").read_text()
    for each in (text, uncommented(text)):
        problems = read_text(each, Path("corral.toml")).problems
        assert problems is not None and not problems.found
        assert list(faults(tomllib.loads(each), SCHEMA)) == []
    assert {"threads", "otlp"} <= tomllib.loads(uncommented(text))["server"].keys()
    assert tomllib.loads(uncommented(text))["models"]["big"]["tls"]["ca"] == "ca.crt"


def test_what_is_read_without_a_mistake_is_as_the_schema_says() -> None:
    problems = read_text(GOOD, Path("corral.toml")).problems
    assert problems is not None and not problems.found
    assert list(faults(tomllib.loads(GOOD), SCHEMA)) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("[server]\nprot = 1", "/server: no property 'prot'"),
        ('[server]\nport = "x"', "/server/port: 'x' is none of integer, array"),
        ("[server]\nmetrics = 1", "/server/metrics: 1 is none of boolean"),
        ("[server]\nport = true", "/server/port: True is none of integer, array"),
        ("[models.a]", "/models/a: /models/a: 'path' is missing and /models/a: 'workers' is missing"),
        ('[models.a]\npath = ""', "/models/a/path: '' is shorter than 1"),
        ('[models.a]\npath = "x"\nreplicas = 0', "/models/a/replicas: 0 is less than 1"),
        ('[aliases.x]\ntargets = { a = 0 }', "/aliases/x: /aliases/x: {'targets': {'a': 0}} is none of string and "
         "/aliases/x/targets/a: 0 is not more than 0"),
        ("[keys.k]\nsha256 = 'x'", "/keys/k/sha256: 'x' is not like '^[0-9a-f]{64}$'"),
        ("[keys.k]\nscopes = []", "/keys/k: 'sha256' is missing"),
        ("[balance]\npolicy = 'x'", "/balance/policy: 'x' is none of"),
    ],
)  # fmt: skip
def test_what_the_schema_refuses_is_a_mistake_for_the_reader_too(wrong: str, told: str) -> None:
    assert any(fault.startswith(told) for fault in faults(tomllib.loads(wrong), SCHEMA))
    problems = read_text(wrong, Path("corral.toml")).problems
    assert problems is not None and problems.found


def test_every_key_is_described() -> None:
    described = list(descriptions(SCHEMA))
    assert len(described) > 500
    assert [key for key, text in described if len(text) < 4 or text.strip() != text] == []


def descriptions(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a table and of those in it, with what is said of it."""
    for key, inside in table.get("properties", {}).items():
        yield f"{place}/{key}", inside.get("description", "")
        yield from descriptions(inside, f"{place}/{key}")
    for inside in (table.get("additionalProperties"), table.get("items"), *table.get("anyOf", ())):
        if isinstance(inside, dict):
            yield from descriptions(inside, f"{place}/*")
