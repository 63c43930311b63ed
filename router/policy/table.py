"""Everything about requests that may change while the gateway runs, as one immutable object.

Made from a GatewayConfig; app.state.table holds the one in force. Each request keeps the Table it began with
(auth.py). Invariant: it is replaced whole or not at all, so that no request sees half of a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from router.config import BalanceConfig, GatewayConfig, LimitsConfig
from router.keys.keys import KeyRing
from router.policy.aliases import AliasTable


@dataclass(frozen=True, slots=True)
class Table:
    aliases: AliasTable
    keys: KeyRing
    limits: LimitsConfig
    balance: BalanceConfig
    sampling: Mapping[str, Mapping[str, Any]]  # of each model: its settings where a body does not say

    @classmethod
    def of(cls, config: GatewayConfig) -> Self:
        """Raises an ExceptionGroup of AliasErrors if the aliases make no sense."""
        return cls(
            AliasTable(config.models, config.aliases),
            KeyRing(config.keys, locked=config.locked),
            config.limits,
            config.balance,
            {model.name: model.sampling for model in config.models},
        )
