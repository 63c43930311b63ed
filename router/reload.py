"""A changed configuration taken into a gateway that runs: read again, judged, and swapped in whole.

Called by gateway.py on SIGHUP and when files change, and by POST /admin/reload. Names, keys, limits and balancing count
from the next request on; models start, drain, or get new workers beside the old ones. Invariant: a configuration that
is invalid, that has no room, or that would need another process, changes nothing but what is told of reloads, and which
file is awaited.
"""

import logging
from collections.abc import Callable

from fastapi import FastAPI

from router.api.routed import check_overlays
from router.config import GatewayConfig
from router.configfile.diff import Act, Difference, differences
from router.errors import CommandError
from router.fleet.fleet import Fleet
from router.observe.reloads import Reloads
from router.policy.table import Table

log = logging.getLogger("corral.reload")

ReadAgain = Callable[[], GatewayConfig]


def reload(app: FastAPI, read_again: ReadAgain) -> list[Difference]:
    """Takes the new configuration into force; what has changed. Raises CommandError if it was refused."""
    counts: Reloads = app.state.policies.metrics.reloads
    try:
        config = read_again()
        check_overlays(config.aliases)
        found = differences(app.state.config, config)
        heavy = [each.what for each in found if each.act is Act.RESTART]
        if heavy:
            raise CommandError(f"this needs a restart of the gateway: {', '.join(heavy)}")
        fleet: Fleet = app.state.fleet
        fleet.check_room(config.models, config.residency)
    except CommandError as error:
        log.error("reload refused, the old configuration stays: %s", error)
        app.state.awaited = error.file
        counts.refused()
        raise
    app.state.awaited = None
    counts.applied()
    app.state.config, app.state.table = config, Table.of(config)
    fleet.apply(config.models, config.residency)
    log.info("reloaded: %s", "; ".join(map(str, found)) or "nothing has changed")
    return found
