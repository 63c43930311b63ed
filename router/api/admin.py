"""POST /admin/reload: the configuration is read again, as SIGHUP does it.

Called by app.py's route table. Invariant: a refusal says why, and then nothing has changed.
"""

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from router.api.wire import json_response
from router.errors import CommandError, InvalidRequest, NotSupported

Reload = Callable[[], Sequence[str]]  # what has changed; raises CommandError


async def reload(request: Request) -> Response:
    """What has changed, one line each."""
    again: Reload | None = request.app.state.reload
    if again is None:
        raise NotSupported("this gateway has no configuration that it could read again")
    try:
        return json_response({"success": True, "changes": list(again())})
    except CommandError as error:
        raise InvalidRequest(f"reload refused, the old configuration stays: {error}") from None
