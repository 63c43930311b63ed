"""A changed configuration taken into a gateway that runs: read again, judged, and swapped in whole.

Called by gateway.py on SIGHUP. Invariant: a configuration that is invalid, or that would need more than a new Table,
changes nothing.
"""

import logging
from collections.abc import Callable

from fastapi import FastAPI

from router.api.routed import check_overlays
from router.config import GatewayConfig
from router.configfile.diff import differences
from router.errors import CommandError
from router.table import Table

log = logging.getLogger("corral.reload")

ReadAgain = Callable[[], GatewayConfig]


def reload(app: FastAPI, read_again: ReadAgain) -> bool:
    """Whether the new configuration is in force now; the log says what changed or why nothing did."""
    try:
        config = read_again()
        check_overlays(config.aliases)
    except CommandError as error:
        log.error("reload refused, the old configuration stays: %s", error)
        return False
    found = differences(app.state.config, config)
    heavy = [str(each) for each in found if not each.in_place]
    if heavy:
        log.error("reload refused, the old configuration stays; this needs a restart: %s", "; ".join(heavy))
        return False
    app.state.config, app.state.table = config, Table.of(config)
    log.info("reloaded: %s", "; ".join(map(str, found)) or "nothing has changed")
    return True
