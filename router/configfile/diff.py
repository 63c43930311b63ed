"""What it would take to go from one configuration to another that runs already. Pure.

Called by reload.py and `corral config diff`. Invariant: whatever differs is named; a difference that is not known to
be taken in place needs a restart.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from router.config import LOAD_FIELDS, GatewayConfig, ModelConfig


class Act(enum.StrEnum):
    IN_PLACE = "in place"  # the next request sees it
    REPLACE = "warm replace"  # a new worker is warm before the old one drains
    START = "start"
    STOP = "stop"
    CONNECT = "connect"  # to a worker on another host
    LEAVE = "leave"  # one, once its requests have ended
    RESTART = "restart"  # of the gateway


IN_PLACE_FIELDS = frozenset({"aliases", "keys", "limits", "balance", "residency"})
UNTOLD = frozenset({"models", "aliases", "keys", "locked", "files", "notes"})  # told otherwise, or no difference


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs, and what it takes."""

    what: str
    act: Act

    def __str__(self) -> str:
        return f"{self.what}: {self.act}"


def differences(old: GatewayConfig, new: GatewayConfig) -> list[Difference]:
    """In the order models, named things, the rest."""
    return [*_models(old, new), *_named(old, new), *_settings(old, new)]


def _models(old: GatewayConfig, new: GatewayConfig) -> Iterator[Difference]:
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    for name in before.keys() - after.keys():
        yield Difference(f"model {name}", Act.STOP)
    for name, model in after.items():
        if name not in before:
            yield Difference(f"model {name}", Act.START)
        elif model != before[name]:
            yield from _model(before[name], model)


def _model(old: ModelConfig, new: ModelConfig) -> Iterator[Difference]:
    """Replicas that come and go are not a replacement of those that stay."""
    changed = [each.name for each in fields(ModelConfig) if getattr(old, each.name) != getattr(new, each.name)]
    shown = ", ".join(name.replace("_", "-") for name in changed)
    if LOAD_FIELDS & set(changed):
        yield Difference(f"model {new.name} ({shown})", Act.REPLACE)
    elif replace(old, replicas=new.replicas, workers=new.workers) != new:
        yield Difference(f"model {new.name} ({shown})", Act.IN_PLACE)
    if new.replicas > old.replicas:
        yield Difference(f"model {new.name}, {new.replicas - old.replicas} of {new.replicas} workers", Act.START)
    if new.replicas < old.replicas:
        yield Difference(f"model {new.name}, {old.replicas - new.replicas} of {old.replicas} workers", Act.STOP)
    for workers, others, act in ((new.workers, old.workers, Act.CONNECT), (old.workers, new.workers, Act.LEAVE)):
        for address in workers:
            if address not in others:
                yield Difference(f"model {new.name}, worker {address}", act)


def _named(old: GatewayConfig, new: GatewayConfig) -> Iterator[Difference]:
    pairs: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("alias", {each.name: each for each in old.aliases}, {each.name: each for each in new.aliases}),
        ("key", {each.name: each for each in old.keys}, {each.name: each for each in new.keys}),
    )
    for kind, before, after in pairs:
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                verb = "gone" if name not in after else "changed" if name in before else "new"
                yield Difference(f"{kind} {name} {verb}", Act.IN_PLACE)


def _settings(old: GatewayConfig, new: GatewayConfig) -> Iterator[Difference]:
    if old.asks_for_keys != new.asks_for_keys:  # the last key that goes from a file must not open the gateway
        yield Difference(f"whether a key is asked for ({'yes' if new.asks_for_keys else 'no'})", Act.RESTART)
    for each in fields(GatewayConfig):
        if each.name in UNTOLD or getattr(old, each.name) == getattr(new, each.name):
            continue
        act = Act.IN_PLACE if each.name in IN_PLACE_FIELDS else Act.RESTART
        yield Difference(each.name.replace("_", "-"), act)
