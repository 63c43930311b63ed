"""Every setting of corral.toml as a table row: its name, its kind, what it means. [server] has the flags' own table.

Read by reading.py (values) and schema.py (for editors). Names are written with "-"; "_" is read as the same.
Invariant: a row without `required` may be left out, and the default is that of the dataclass in router/config.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from router.config import BALANCING, LEAST_WEIGHT, MOST_WEIGHT, Reason, Scope
from router.configfile.kinds import (
    ADDRESSES,
    DIGEST,
    FIELDS,
    MOMENT,
    SECONDS,
    SWITCH,
    TEXT,
    TEXTS,
    Kind,
    one_of,
    positive,
    some_of,
    whole,
    within,
)

MAX_RATE = 1_000_000_000
MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    kind: Kind
    help: str
    required: bool = False

    @property
    def field(self) -> str:
        """Its name in the dataclass."""
        return self.name.replace("-", "_")


TLS = Setting("tls", FIELDS, "TLS to the workers on other hosts; an empty table trusts whom this host trusts")
WORKER = Setting("worker", FIELDS, "the worker's flags by their long names, for this model alone")

MODEL: Sequence[Setting] = (
    Setting("path", TEXT, "the GGUF file; relative to this file"),
    Setting("names", TEXTS, "further names for the same weights"),
    Setting("replicas", whole(1, 256), "workers of this model"),
    Setting("pin", SWITCH, "never unload it to make room for another model"),
    Setting("ttl", SECONDS, "unload it after this time without a request"),
    Setting("weight", within(LEAST_WEIGHT, MOST_WEIGHT), "its share of the cores while several models compute"),
    Setting("load-on-start", SWITCH, "load it when the gateway starts, not with its first request"),
    WORKER,
    Setting(
        "workers", ADDRESSES, "workers on other hosts: HOST:PORT, dns:///NAME:PORT for all its addresses, unix:PATH"
    ),
    TLS,
    Setting("token-file", TEXT, "what those workers ask for, if not CORRAL_WORKER_TOKEN; relative to this file"),
)

OF_PROCESSES = frozenset({"replicas", "pin", "ttl", "weight", "load-on-start", "worker"})  # that the gateway starts

WORKER_TLS: Sequence[Setting] = (
    Setting("ca", TEXT, "who signs their certificates, a PEM file"),
    Setting("cert", TEXT, "the gateway's own certificate for them, a PEM file"),
    Setting("key", TEXT, "its key, a PEM file"),
    Setting("server-name", TEXT, "the name in their certificates, if not the one they are reached by"),
)

TARGETS = Setting("targets", FIELDS, "models and their shares of the requests, as { small = 9, new = 1 }")
FALLBACKS = Setting("fallbacks", FIELDS, "names to go on to, in order: texts, or tables with `to` and `on`")
SHADOW = Setting("shadow", FIELDS, "a name that gets a copy: a text, or a table with `to` and `fraction`")

ALIAS: Sequence[Setting] = (
    Setting("target", TEXT, "the one model behind it"),
    TARGETS,
    Setting("defaults", FIELDS, "fields of a request's body where the client gives none"),
    Setting("forced", FIELDS, "fields of a request's body whatever the client gives"),
    FALLBACKS,
    SHADOW,
    Setting("hidden", SWITCH, "answer to this name, but do not list it"),
    Setting("balance", one_of(BALANCING), "how a replica is chosen"),
)

FALLBACK: Sequence[Setting] = (
    Setting("to", TEXT, "a model or an alias", required=True),
    Setting("on", some_of(tuple(Reason)), "for which reasons; all of them if left out"),
)

SHADOW_TABLE: Sequence[Setting] = (
    Setting("to", TEXT, "a model or an alias", required=True),
    Setting("fraction", positive(1.0), "the share of the requests that is copied"),
)

KEY: Sequence[Setting] = (
    Setting("sha256", DIGEST, "the digest of the key", required=True),
    Setting("models", TEXTS, "names it may ask for; * stands for any letters"),
    Setting("scopes", some_of(tuple(Scope)), "what it may be used for"),
    Setting("expires", MOMENT, "from then on it is refused"),
    Setting("requests-per-minute", whole(1, MAX_RATE), "requests a minute"),
    Setting("tokens-per-minute", whole(1, MAX_RATE), "tokens a minute, of prompts and answers"),
    Setting("concurrent", whole(1, MAX_RATE), "requests at the same time"),
    Setting("weight", positive(MAX_WEIGHT), "its share of a busy model"),
    Setting("priority", whole(-100, 100), "a higher one goes first, whatever the weights"),
)

KEYS_FILE = Setting("file", TEXT, "a file of keys, as `corral keys` keeps it; relative to this file")

LIMITS: Sequence[Setting] = (
    Setting("queue", whole(0, 1_000_000), "requests that may wait in front of one model"),
    Setting("queue-timeout", SECONDS, "how long they may wait"),
    Setting(
        "in-flight", whole(0, 1_000_000), "requests handed to one model at once; 0: one more than it computes at once"
    ),
    Setting("assumed-answer", whole(0, 1_000_000), "tokens that are reserved for an answer without max_tokens"),
)

BALANCE: Sequence[Setting] = (
    Setting("policy", one_of(BALANCING), "how a replica is chosen"),
    Setting("session-header", TEXT, "the header that names a session, for the policy `session`"),
)
