"""Whether one more model has room beside those that are loaded, and which of them go to make it. Pure.

Called by lifecycle. Idle models go before busy ones, least recently used ones first, and no more of them than it
takes. Invariant: what is not evictable is never chosen, and nothing is chosen for a model that will not fit afterwards.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from router.config import ResidencyConfig

GIB = 1 << 30


class Cause(enum.StrEnum):
    """Why a model is unloaded."""

    ASKED = "asked"  # by name, or by a configuration that has it no more
    TTL = "ttl"  # it was idle for long enough
    MEMORY = "memory"  # another one needs its room
    MODELS_MAX = "models-max"  # another one needs its place


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, or one that wants to be."""

    name: str
    num_bytes: int
    last_used: float
    evictable: bool
    busy: bool = False
    pin: bool = False
    leaving: bool = False  # its memory will be free soon


@dataclass(frozen=True, slots=True)
class Room:
    """`fits`: there is room now. Else, once the victims have gone, or, without any, once something else changes."""

    fits: bool
    victims: Mapping[str, Cause] = field(default_factory=dict)  # in the order in which they go


def room_for(model: Resident, residents: Collection[Resident], limits: ResidencyConfig) -> Room:
    """How the model can get into memory beside the residents."""
    if _fit((model, *residents), limits):
        return Room(True)
    staying = [each for each in residents if not each.leaving]
    lacks = Cause.MEMORY if _fit_in_number((model, *staying), limits) else Cause.MODELS_MAX
    victims: list[str] = []
    for candidate in sorted((each for each in staying if each.evictable), key=lambda each: (each.busy, each.last_used)):
        if _fit((model, *staying), limits):
            break
        staying.remove(candidate)
        victims.append(candidate.name)
    return Room(False, dict.fromkeys(victims, lacks) if _fit((model, *staying), limits) else {})


def too_many(residents: Collection[Resident], limits: ResidencyConfig) -> Mapping[str, Cause]:
    """Who goes because those in memory have grown beyond the limits, or these have shrunk; the last used one stays."""
    staying = [each for each in residents if not each.leaving]
    if not staying:
        return {}
    last = max(staying, key=lambda each: each.last_used)
    return room_for(last, [each for each in residents if each is not last], limits).victims


def never_fits(model: Resident, residents: Iterable[Resident], limits: ResidencyConfig) -> str | None:
    """Why the model could not be loaded even if everything but the pinned ones went; None: it could."""
    return _misfit(model, [each for each in residents if each.pin], "pinned", limits)


def cannot_grow(model: Resident, residents: Iterable[Resident], limits: ResidencyConfig) -> str | None:
    """Why a model that is loaded has no room for what it would take now, even if all went that may; None: it has."""
    staying = [each for each in residents if not each.evictable and not each.leaving]
    return _misfit(model, staying, "pinned or busy", limits)


def _misfit(model: Resident, staying: Collection[Resident], what: str, limits: ResidencyConfig) -> str | None:
    """Why it does not fit beside those that stay, `what` they are; None: it does."""
    if limits.max_models and len(staying) >= limits.max_models:
        return f"--models-max is {limits.max_models}, and as many models are {what}"
    if _fit((model, *staying), limits):
        return None
    taken = sum(each.num_bytes for each in staying)
    beside = f", of which {what} ones take {_gib(taken)}" if taken else ""
    return (
        f"it needs about {_gib(model.num_bytes)}, but models may take {_gib(limits.memory)}{beside} (--models-memory); "
        "a smaller --ctx-size or --parallel needs less"
    )


def _fit(models: Collection[Resident], limits: ResidencyConfig) -> bool:
    in_memory = not limits.memory or sum(each.num_bytes for each in models) <= limits.memory
    return in_memory and _fit_in_number(models, limits)


def _fit_in_number(models: Collection[Resident], limits: ResidencyConfig) -> bool:
    return not limits.max_models or len(models) <= limits.max_models


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
