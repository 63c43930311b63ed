"""The alias table: what a name in a request means. Pure and immutable; a change of configuration makes a new one.

    one name, one model      `chat = "smollm2"`, or the model's own names
    one name, several        weighted targets: a number in [0, 1) chooses
    then, if that fails      fallbacks, in order, each for its reasons
    beside it                a shadow: another name that gets a copy

Held by table.py, asked through router/api/routed.py. Invariant: an unknown name never falls back to another model, and
following fallbacks always ends: a cycle is refused when the table is built.
"""

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from router.config import AliasConfig, ModelConfig, Reason
from router.errors import InvalidRequest, ModelNotFound

NUM_NEAREST = 5
EVERYTHING = ("*",)


@dataclass(frozen=True, slots=True)
class Step:
    """A model to go on to, and for which reasons."""

    model: str
    on: frozenset[Reason]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the name it asked for, the model that serves it, and what comes after."""

    alias: str
    model: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    forced: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[Step, ...] = ()
    shadow: str | None = None  # the model that gets a copy of this very request
    balance: str | None = None  # how a replica is chosen; None: as for every model

    def after(self, reason: Reason) -> "Route | None":
        """The route to go on with when the model could not serve for this reason; None: there is none.

        It never comes back to a model: what it could not do just now it cannot do a moment later.
        """
        others = tuple(step for step in self.fallbacks if step.model != self.model)
        for index, step in enumerate(others):
            if reason in step.on:
                return replace(self, model=step.model, fallbacks=others[index + 1 :])
        return None


class AliasError(ValueError):
    """An alias that makes no sense: its name, the part that is wrong, what is wrong, and the nearest known name."""

    def __init__(self, alias: str, part: str, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.alias = alias
        self.part = part
        self.message = message
        self.nearest = nearest


class AliasTable:
    """Names to routes. Making one raises an ExceptionGroup of AliasErrors if any alias makes no sense."""

    def __init__(self, models: Sequence[ModelConfig], aliases: Sequence[AliasConfig] = ()) -> None:
        self._models: Mapping[str, str] = MappingProxyType(
            {name: model.name for model in models for name in model.names}
        )
        self._aliases: Mapping[str, AliasConfig] = MappingProxyType({alias.name: alias for alias in aliases})
        self._only = models[0].name if len(models) == 1 else None
        self._routes = {name: Route(name, model) for name, model in self._models.items()}
        errors = list(self._errors())
        if errors:
            raise ExceptionGroup("aliases", errors)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._models, *(name for name in self._aliases if name not in self._models))

    def listed(self, patterns: Sequence[str] = EVERYTHING) -> Mapping[str, str]:
        """The names that are no secret and match a pattern, each with the model that serves most of its requests."""
        names = (name for name in self.names if self._is_listed(name) and matches(name, patterns))
        return {name: self._main_model(name) for name in names}

    def resolve(self, name: str | None, draw: float = 0.0, patterns: Sequence[str] = EVERYTHING) -> Route:
        """The route of a name; a number in [0, 1) chooses among weighted targets.

        No name means the only model; with several it is an InvalidRequest that lists them. An unknown name is
        ModelNotFound with the nearest; of both, those that match the patterns.
        """
        if not name:
            return self._default(patterns)
        alias = self._aliases.get(name)
        if alias is not None:
            return self._policy(alias, draw)
        route = self._routes.get(name)
        if route is None:
            raise ModelNotFound(name, self._nearest(name, patterns))
        return route

    def _default(self, patterns: Sequence[str]) -> Route:
        if self._only is None:
            names = ", ".join(self.listed(patterns))
            raise InvalidRequest(f"model name is missing from the request (models: {names})")
        return Route(self._only, self._only)

    def _policy(self, alias: AliasConfig, draw: float) -> Route:
        model, rest = self._choose(alias.targets, draw)
        shadow = alias.shadow
        return Route(
            alias=alias.name,
            model=model,
            defaults=alias.defaults,
            forced=alias.forced,
            fallbacks=tuple(self._steps(alias, frozenset(Reason), rest)),
            # `rest` is even in [0, 1) whichever target was chosen, so that the shadow sees all of them alike
            shadow=self._model_of(shadow.to, rest) if shadow and rest < shadow.fraction else None,
            balance=alias.balance,
        )

    def _choose(self, targets: Sequence[tuple[str, float]], draw: float) -> tuple[str, float]:
        """The model whose stretch of [0, 1) holds the number, and where in that stretch it lies."""
        point = draw * sum(weight for _, weight in targets)
        for name, weight in targets:
            if point < weight:
                return self._models[name], point / weight
            point -= weight
        return self._models[targets[-1][0]], 0.0  # only rounding leads here

    def _model_of(self, name: str, draw: float) -> str:
        alias = self._aliases.get(name)
        return self._choose(alias.targets, draw)[0] if alias else self._models[name]

    def _steps(self, alias: AliasConfig, on: frozenset[Reason], draw: float) -> Iterator[Step]:
        """An alias' fallbacks, each followed by its own, for reasons that lead all the way."""
        for fallback in alias.fallbacks:
            reasons = fallback.on & on
            yield Step(self._model_of(fallback.to, draw), reasons)
            further = self._aliases.get(fallback.to)
            if further is not None:
                yield from self._steps(further, reasons, draw)

    def _main_model(self, name: str) -> str:
        alias = self._aliases.get(name)
        if alias is None:
            return self._models[name]
        return self._models[max(alias.targets, key=lambda target: target[1])[0]]

    def _is_listed(self, name: str) -> bool:
        alias = self._aliases.get(name)
        return alias is None or not alias.hidden

    def _nearest(self, name: str, patterns: Sequence[str]) -> list[str]:
        """Up to five known names like this one, letter case aside."""
        folded = {known.casefold(): known for known in self.listed(patterns)}
        close = get_close_matches(name.casefold()[:200], folded, n=NUM_NEAREST, cutoff=0.4)
        return [folded[match] for match in close]

    # ---- what is refused when a table is built ----

    def _errors(self) -> Iterator[AliasError]:
        for alias in self._aliases.values():
            yield from self._unknown(alias)
            if alias.name in self._models and all(name != alias.name for name, _ in alias.targets):
                yield AliasError(alias.name, "", "a model has this name too, and is not among the alias' targets")
            cycle = self._cycle(alias.name, ())
            if cycle and cycle[0] == alias.name:
                yield AliasError(alias.name, "fallbacks", f"the fallbacks go round in a circle: {' -> '.join(cycle)}")

    def _unknown(self, alias: AliasConfig) -> list[AliasError]:
        uses: list[tuple[str, str, Collection[str]]] = [("targets", name, self._models) for name, _ in alias.targets]
        uses += [("fallbacks", fallback.to, self.names) for fallback in alias.fallbacks]
        uses += [("shadow", alias.shadow.to, self.names)] if alias.shadow else []
        return [self._unknown_name(alias, part, name) for part, name, known in uses if name not in known]

    def _unknown_name(self, alias: AliasConfig, part: str, name: str) -> AliasError:
        what = "model" if part == "targets" else "model or alias"
        close = get_close_matches(name, self._models if part == "targets" else self.names, n=1, cutoff=0.5)
        return AliasError(alias.name, part, f"no {what} is called '{name}'", close[0] if close else None)

    def _cycle(self, name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        """The first way along fallbacks that comes back to a name on it; empty if there is none."""
        if name in path:
            return (*path[path.index(name) :], name)
        alias = self._aliases.get(name)
        ways = (self._cycle(fallback.to, (*path, name)) for fallback in (alias.fallbacks if alias else ()))
        return next(filter(None, ways), ())


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, in which * stands for any letters."""
    return patterns == EVERYTHING or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
