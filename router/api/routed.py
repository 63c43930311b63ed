"""From a request about a model to its Call: the body, the name in it, the key's right to it, the alias' overlay.

Called by every endpoint of router/api that names a model. Invariant: a key gets nowhere by a name that is not for it,
and a client cannot give a forced field under any of its spellings.
"""

import random
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from starlette.requests import Request

from router.api.fields import Body, Field, Fields, json_body, read, string
from router.api.keepalive import KEEP_ALIVE
from router.api.messages import TABLE as CHAT_TABLE
from router.api.sampling import TABLE
from router.call import Call, Policies
from router.config import AliasConfig, KeyConfig
from router.errors import CommandError, Forbidden, InvalidRequest, NotSupported
from router.policy.aliases import Route, matches
from router.policy.table import Table

MODEL = Fields(Field("model", string))
_ROUTING = Fields(*MODEL, *KEEP_ALIVE)
SESSION_FIELDS = ("prompt_cache_key", "user")
DEBUG_HEADER = b"x-route-debug"
NEVER_OVERLAID = frozenset({"model", "stream", "messages", "prompt"})  # what the request is, not how it is answered
_OVERLAID = Fields(*TABLE, *CHAT_TABLE)
_SPELLINGS: Mapping[str, Sequence[str]] = {name: field.names for field in _OVERLAID for name in field.names}


async def routed(request: Request) -> tuple[Call, dict[str, Any]]:
    """The request's call and its JSON body, with the defaults and forced fields of the alias it asks for."""
    body = await json_body(request)
    given = read(_ROUTING, body)
    call = call_to(request, given["model"])
    headers: Mapping[bytes, bytes] = request.scope["state"]["headers"]
    call.session = _session(call.table, headers, body)
    call.debug = headers.get(DEBUG_HEADER, b"0") not in (b"", b"0")
    call.keep_alive = given["keep_alive"]
    return call, overlaid(body, call.route)


def _session(table: Table, headers: Mapping[bytes, bytes], body: Body) -> str:
    """What says that requests belong together: the header for it, or one of OpenAI's fields."""
    header = headers.get(table.balance.session_header.lower().encode("latin-1", "replace"), b"").decode("latin-1")
    given = (header, *(body.get(name) for name in SESSION_FIELDS))
    return next((each for each in given if isinstance(each, str) and each), "")


def call_to(request: Request, name: str | None) -> Call:
    """A call to the model of a name; no name means the only model. Raises ModelNotFound, Forbidden."""
    state: dict[str, Any] = request.scope["state"]
    table: Table = state["table"]
    key: KeyConfig = state["key"]
    policies: Policies = request.app.state.policies
    route = _permitted(table, key, name)
    call = state["call"] = Call(policies, table, key, route, state["request_id"], trace=state["trace"])
    return call


def _permitted(table: Table, key: KeyConfig, name: str | None) -> Route:
    route = table.aliases.resolve(name, random.random(), key.models)  # noqa: S311 (a share of the traffic, no secret)
    check_name(route.alias, key)
    return route


def check_name(name: str, key: KeyConfig) -> None:
    """Raises Forbidden for a name of a model that is not for the key."""
    if not matches(name, key.models):
        raise Forbidden(f"key '{key.name}' may not use model '{name}'")


def overlaid(body: Body, route: Route) -> dict[str, Any]:
    """A body with the route's defaults where it has nothing, and the forced fields in the place of its own."""
    result = dict(body)
    for name, value in route.defaults.items():
        if all(result.get(spelling) is None for spelling in _spellings(name)):
            result[name] = value
    for name, value in route.forced.items():
        for spelling in _spellings(name):
            result.pop(spelling, None)
        result[name] = value
    return result


def _spellings(name: str) -> Sequence[str]:
    return _SPELLINGS.get(name, (name,))


def overlay_error(alias: AliasConfig) -> tuple[str, str] | None:
    """What is wrong with an alias' defaults and forced fields: the part and the message; None: nothing."""
    for part, overlay in (("defaults", alias.defaults), ("forced", alias.forced)):
        for name in overlay:
            if name in NEVER_OVERLAID or name not in _SPELLINGS:
                return part, _no_such_field(name)
        try:
            read(_OVERLAID, overlay)
        except (InvalidRequest, NotSupported) as error:
            return part, error.message
    return None


def check_overlays(aliases: Sequence[AliasConfig]) -> None:
    """Raises CommandError for defaults or forced fields that no request could have."""
    for alias in aliases:
        error = overlay_error(alias)
        if error is not None:
            raise CommandError(f"{alias.where or f'aliases.{alias.name}'}.{error[0]}: {error[1]}", 2)


def _no_such_field(name: str) -> str:
    if name in NEVER_OVERLAID:
        return f"'{name}' is for the client to say"
    near = get_close_matches(name, _SPELLINGS, n=1)
    return f"no such field of a request: '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
