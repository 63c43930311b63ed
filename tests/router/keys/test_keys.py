"""Keys: the ring, the file, the command, and the rights matrix over every real route."""

import itertools
import json
import os
import re
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.routing import Route

from router.app import ROUTES, create_app
from router.config import KeyConfig, Scope
from router.errors import CommandError, Unauthorized
from router.http.auth import Guarded
from router.keys.keycommand import main
from router.keys.keyfile import read_keys_file, write_keys_file
from router.keys.keys import ANONYMOUS, KeyRing, full_key, key_digest
from tests.router.gateways import Gateway, config, running

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def key(name: str, **settings: object) -> KeyConfig:
    return KeyConfig(name, key_digest(name.encode()), **settings)  # type: ignore[arg-type]


# ---- the ring ---------------------------------------------------------------------------------


def test_without_keys_everyone_is_admitted() -> None:
    assert KeyRing(()).find(b"", NOW) is ANONYMOUS


def test_with_a_file_of_keys_that_is_empty_nobody_is_admitted() -> None:
    for presented in (b"", b"key"):
        with pytest.raises(Unauthorized):
            KeyRing((), locked=True).find(presented, NOW)


def test_a_key_is_found_whatever_its_place() -> None:
    ring = KeyRing([key("a"), key("b"), key("c")])
    assert [ring.find(name, NOW).name for name in (b"a", b"b", b"c")] == ["a", "b", "c"]
    for wrong in (b"", b"ab", b"A", key_digest(b"a")):
        with pytest.raises(Unauthorized, match=r"^Invalid API Key$"):
            ring.find(wrong, NOW)


def test_an_expired_key_is_told_so_from_its_moment_on() -> None:
    ring = KeyRing([key("a", expires=NOW)])
    assert ring.find(b"a", NOW - timedelta(seconds=1)).name == "a"
    with pytest.raises(Unauthorized, match="key 'a' has expired"):
        ring.find(b"a", NOW)


def test_a_plain_key_has_every_right_and_no_limit() -> None:
    plain = full_key(b"secret")
    assert plain.scopes == set(Scope)
    assert (plain.requests_per_minute, plain.tokens_per_minute, plain.concurrent) == (None, None, None)
    assert "secret" not in plain.name


# ---- the file and the command -----------------------------------------------------------------


def test_the_file_keeps_every_setting(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys = [
        key("plain"),
        key(
            'team "x".y',
            models=("a*", "b"),
            scopes=frozenset({Scope.ADMIN, Scope.INFER}),
            expires=NOW,
            requests_per_minute=1,
            tokens_per_minute=2,
            concurrent=3,
            weight=0.5,
            priority=-1,
        ),
    ]
    write_keys_file(file, keys)
    assert list(read_keys_file(file)) == keys
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_touch_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys.toml"
    write_keys_file(file, [key("a")])
    file.chmod(mode)
    with pytest.raises(CommandError, match=f"chmod 600 {re.escape(str(file))}"):
        read_keys_file(file)


def test_a_key_is_shown_once_and_only_its_digest_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.toml"
    assert main(["new", "team", "--models", "a", "b*", "--tokens-per-minute", "100", "--file", str(file)]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sk-corral-") and len(secret) > 50
    [kept] = read_keys_file(file)
    assert (kept.name, kept.models, kept.tokens_per_minute) == ("team", ("a", "b*"), 100)
    assert kept.digest == key_digest(secret.encode())
    assert secret not in file.read_text()
    assert main(["ls", "--json", "--file", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "team"


def test_who_owns_the_file_goes_on_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root changes what a service's user reads."""
    file = tmp_path / "keys.toml"
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: given.append((user, group)))
    write_keys_file(file, [key("a")])
    assert given == []
    write_keys_file(file, [])
    assert given == [(file.stat().st_uid, file.stat().st_gid)]


def test_a_revoked_key_is_gone_and_the_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.toml"
    write_keys_file(file, [key("a"), key("b")])
    assert main(["revoke", "a", "--file", str(file)]) == 0
    assert [each.name for each in read_keys_file(file)] == ["b"]
    assert main(["revoke", "a", "--file", str(file)]) == 2
    assert main(["new", "b", "--file", str(file)]) == 2
    assert main(["new", "", "--file", str(file)]) == main(["new", "a\nb", "--file", str(file)]) == 2
    assert main(["new", "c", "--expires", "someday", "--file", str(file)]) == 2
    assert "--expires needs a date" in capsys.readouterr().err


# ---- the rights matrix ------------------------------------------------------------------------

HEADERS = {
    "bearer": lambda value: {"Authorization": f"Bearer {value}"},
    "plain": lambda value: {"Authorization": value},
    "x-api-key": lambda value: {"X-Api-Key": value},
    "api-key": lambda value: {"api-key": value},
}
OPEN = {"/health", "/v1/health", "/live", "/ready"}
NEEDS = {
    "/metrics": Scope.METRICS,
    "/health/deep": Scope.METRICS,
    "/admin/fleet": Scope.METRICS,
    "/admin/logs": Scope.ADMIN,
    "/slots": Scope.METRICS,
    "/slots/{id}": Scope.ADMIN,
    "/models/load": Scope.ADMIN,
    "/models/unload": Scope.ADMIN,
    "/admin/reload": Scope.ADMIN,
}
REAL = [(method, route) for route in create_app(config("a")).routes for method in sorted(route.methods or ())]


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    keys = tuple(key(scope, scopes=frozenset({scope})) for scope in Scope)
    async with running(config("a", keys=keys, metrics=True)) as started:
        yield started


def test_every_route_of_the_application_declares_its_scope() -> None:
    declared = {(method, path): scope for method, path, scope, _ in ROUTES}
    for method, route in REAL:
        assert isinstance(route, Route)
        guard = getattr(route.endpoint, "__self__", None)
        assert isinstance(guard, Guarded), route.path
        assert guard.scope == declared["GET" if method == "HEAD" else method, route.path]
        assert (guard.scope is None) == (route.path in OPEN)


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "route"), REAL, ids=lambda value: getattr(value, "path", value))
async def test_a_route_is_reached_with_its_scope_and_with_no_other_way(
    gateway: Gateway, method: str, route: Route
) -> None:
    path = route.path.replace("{model:path}", "a")
    needed = Scope.ADMIN if method == "DELETE" else NEEDS.get(path, Scope.INFER)
    for way, scope in itertools.product(HEADERS.values(), (*Scope, "no such key")):
        async with gateway.client.stream(method, path, headers=way(str(scope)), json={}) as answer:
            if answer.headers.get("content-type") != "text/event-stream":  # which has no end
                await answer.aread()
        if path in OPEN:
            assert answer.status_code == 200
        elif scope not in list(Scope):
            assert answer.status_code == 401
        elif scope == needed:
            assert answer.status_code not in (401, 403)
        else:
            assert answer.status_code == 403
            if method != "HEAD":
                assert answer.json()["error"]["type"] == "permission_error"
    assert ((await gateway.client.request(method, path)).status_code == 401) == (path not in OPEN)
