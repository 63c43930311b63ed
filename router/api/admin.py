"""POST /admin/reload: the configuration is read again, as SIGHUP does it.

Called by app.py's route table; models.py does the same for GET /models?reload=1. Invariant: a refusal says why, and
then nothing has changed.
"""

from collections.abc import Callable, Sequence

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from router.api.wire import json_response
from router.errors import CommandError, InvalidRequest, NotSupported

Reload = Callable[[], Sequence[str]]  # what has changed; raises CommandError


async def reload(request: Request) -> Response:
    """What has changed, one line each."""
    return json_response({"success": True, "changes": list(read_again(request.app))})


def read_again(app: FastAPI) -> Sequence[str]:
    """What has changed. Raises InvalidRequest, NotSupported."""
    again: Reload | None = app.state.reload
    if again is None:
        raise NotSupported("this gateway has no configuration that it could read again")
    try:
        return again()
    except CommandError as error:
        raise InvalidRequest(f"reload refused, the old configuration stays: {error}") from None
