"""The gateway as an ASGI application: every route and every layer of middleware on one screen.

Made by gateway.py (and by tests) from a GatewayConfig. A request passes the layers from top to bottom:
    RequestId      gives it an id                      Cors       answers OPTIONS, marks answers for other origins
    ErrorBoundary  exceptions become JSON envelopes    Auth       no key, no further
    BodyLimit      counts its bytes                    routes     router/api, which calls the Dispatcher
Invariant: nothing under a route is reached without a key, but for the paths auth.OPEN_PATHS names.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.aliases import AliasTable
from router.api import chat, completions, models, native, status, text
from router.auth import Auth, Keys
from router.boundary import BodyLimit, ErrorBoundary, RequestId, reject_route
from router.config import GatewayConfig
from router.cors import Cors
from router.dispatch import Dispatcher
from router.supervisor import Fleet

Endpoint = Callable[[Request], Awaitable[Response]]

ROUTES: Sequence[tuple[str, str, Endpoint]] = (
    ("GET", "/health", status.health),
    ("GET", "/v1/health", status.health),
    ("GET", "/live", status.live),
    ("GET", "/ready", status.ready),
    ("GET", "/props", status.props),
    ("GET", "/slots", status.slots),
    ("GET", "/metrics", status.metrics),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/models", models.list_models),
    ("GET", "/v1/models/{model:path}", models.get_model),
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("POST", "/chat/completions", chat.chat_completions),
    ("POST", "/v1/completions", completions.completions),
    ("POST", "/completion", native.completion),
    ("POST", "/completions", native.completion),
    ("POST", "/tokenize", text.tokenize),
    ("POST", "/detokenize", text.detokenize),
    ("POST", "/apply-template", text.apply_template),
)


def create_app(config: GatewayConfig, running: Fleet | None = None) -> FastAPI:
    """The application over running workers, or over its own, whose lives are its lifespan.

    app.state: config, fleet, dispatcher.
    """
    fleet = running or Fleet(config.models, config.supervision)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if running else fleet:
            yield

    app = FastAPI(
        title="Corral",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in ROUTES],
        exception_handlers={HTTPException: reject_route},
        middleware=[
            Middleware(RequestId),
            Middleware(Cors, config=config.cors),
            Middleware(ErrorBoundary),
            Middleware(Auth, keys=Keys(config.key_digests)),
            Middleware(BodyLimit, limit=config.body_limit),
        ],
    )
    app.state.config = config
    app.state.fleet = fleet
    app.state.dispatcher = Dispatcher(AliasTable(config.models), fleet)
    return app
