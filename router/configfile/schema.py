"""corral.toml as a JSON Schema, for editors that complete and check. Pure; made from the same tables that read it.

Called by command.py. Invariant: what the schema refuses, reading.py refuses too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from router.configfile.flagvalues import NOT_IN_FILE, WHOLE
from router.configfile.reading import IN_SERVER, IN_WORKER
from router.configfile.tables import (
    ALIAS,
    BALANCE,
    FALLBACK,
    KEY,
    KEYS_FILE,
    LIMITS,
    MODEL,
    SHADOW_TABLE,
    WORKER_TLS,
    Setting,
)
from router.options.flagrows import Effect, Flag, Takes
from router.options.flags import long_names

Schema = Mapping[str, Any]
_NAME: Schema = {"type": "string", "minLength": 1}
_SECTIONS = {
    "server": "flags of corral serve by their long names",
    "models": "the models, each under its name",
    "aliases": "further names: each leads to a model, or to a table of targets, defaults and fallbacks",
    "keys": "who may call, what and how much, each key under a name for it",
    "limits": "how many requests wait, and how long",
    "balance": "how a replica is chosen where an alias does not say",
}


def schema() -> dict[str, Any]:
    """The whole document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "corral.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {**table, "description": _SECTIONS[name]} for name, table in _sections().items()},
    }


def _sections() -> Mapping[str, Schema]:
    return {
        "server": _flags(IN_SERVER),
        "models": {"type": "object", "additionalProperties": _model()},
        "aliases": {"type": "object", "additionalProperties": {"anyOf": [_NAME, _alias()]}},
        "keys": {**_object((KEYS_FILE,)), "additionalProperties": _object(KEY)},
        "limits": _object(LIMITS),
        "balance": _object(BALANCE),
    }


def _model() -> Schema:
    table = _object(MODEL, worker=_flags(IN_WORKER), tls=_object(WORKER_TLS))
    return {**table, "anyOf": [{"required": ["path"]}, {"required": ["workers"]}]}


def _alias() -> Schema:
    fallback: Schema = {"anyOf": [_NAME, _object(FALLBACK)]}
    return _object(
        ALIAS,
        targets={"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
        fallbacks={"anyOf": [*fallback["anyOf"], {"type": "array", "items": fallback}]},
        shadow={"anyOf": [_NAME, _object(SHADOW_TABLE)]},
    )


def _object(settings: Sequence[Setting], **special: Schema) -> dict[str, Any]:
    """A table; `special` replaces the schema of a setting that has more than one form."""
    rows = {
        setting.name: {**special.get(setting.field, setting.kind.schema), "description": setting.help}
        for setting in settings
    }
    required = [setting.name for setting in settings if setting.required]
    both = {**rows, **{setting.field: rows[setting.name] for setting in settings if setting.name not in required}}
    return {"type": "object", "properties": both, "required": required, "additionalProperties": False}


def _flags(effects: frozenset[Effect]) -> dict[str, Any]:
    properties = {
        spelling: _flag(flag)
        for name, flag in long_names().items()
        if flag.effect in effects and flag.key not in NOT_IN_FILE
        for spelling in (name, name.replace("-", "_"))
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _flag(flag: Flag) -> Schema:
    return {"type": _type(flag), "description": _description(flag)}


def _description(flag: Flag) -> str:
    if flag.effect is Effect.REFUSED:
        return f"refused: {flag.note}"
    return flag.help or f"without effect: {flag.note or 'it is always so'}"


def _type(flag: Flag) -> str | list[str]:
    if flag.takes is Takes.NOTHING:
        return "boolean"
    if flag.metavar in WHOLE:
        return ["integer", "array"]
    if flag.metavar == "SECONDS":
        return ["number", "array"]
    words = ["string", "number", "array"]
    return [*words, "boolean"] if flag.takes is Takes.WORD else words
