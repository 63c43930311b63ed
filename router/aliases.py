"""The alias table: which model a name in a request means. Pure; built once from the configuration, never changed.

Called by dispatch.py. Invariant: a name leads to exactly one model, and an unknown name never falls back to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from router.config import ModelConfig
from router.errors import InvalidRequest, ModelNotFound

NUM_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the alias it asked for and the model behind it."""

    alias: str
    model: str


class AliasTable:
    """Names to routes."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self._routes: Mapping[str, Route] = MappingProxyType(
            {alias: Route(alias, model.name) for model in models for alias in model.names}
        )
        self._only = Route(models[0].name, models[0].name) if len(models) == 1 else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._routes)

    def resolve(self, name: str | None) -> Route:
        """The route of a name. No name means the only model; with several it is an error that lists them."""
        if not name:
            return self._default()
        route = self._routes.get(name)
        if route is None:
            raise ModelNotFound(name, self._nearest(name))
        return route

    def _default(self) -> Route:
        if self._only is None:
            raise InvalidRequest(f"model name is missing from the request (models: {', '.join(self._routes)})")
        return self._only

    def _nearest(self, name: str) -> list[str]:
        """Up to five known names like this one, letter case aside."""
        folded = {known.casefold(): known for known in self._routes}
        close = get_close_matches(name.casefold()[:200], folded, n=NUM_NEAREST, cutoff=0.4)
        return [folded[match] for match in close]
