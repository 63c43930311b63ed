"""The gateway as an ASGI application: every route and every layer of middleware on one screen.

Made by gateway.py (and by tests) from a GatewayConfig. A request passes the layers from top to bottom:
    Envelope       opens its Answer and names it       Cors       marks answers for other origins
    ErrorBoundary  exceptions become JSON envelopes    Access     counts and logs how it ended
    HostGuard      refuses pages of another name       Auth       no key, no further
    BodyLimit      counts its bytes                    FixedPaths looks up the endpoint
    Guarded        no right, no further                routes     router/api, which calls the Dispatcher
Invariant: a route is reached only with a key that has the scope its row declares; OPEN rows need none.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from router.api import admin, chat, completions, fleet, lifecycle, metrics, models, native, route, slots, status, text
from router.api.routed import check_overlays
from router.call import Policies
from router.config import GatewayConfig, Scope
from router.dispatch import Dispatcher
from router.fleet.fleet import Fleet
from router.http.auth import Auth, Endpoint, Guarded
from router.http.boundary import BodyLimit, Envelope, ErrorBoundary, reject_route
from router.http.cors import Cors
from router.http.fixedpaths import FixedPaths
from router.http.hosts import HostGuard
from router.observe.access import Access
from router.observe.metrics import Metrics
from router.observe.traces import Traces
from router.policy.admission import Admission
from router.policy.limits import LimitStore, MemoryLimits
from router.policy.redislimits import RedisLimits
from router.policy.shadow import Shadows
from router.policy.table import Table

OPEN = None

ROUTES: Sequence[tuple[str, str, Scope | None, Endpoint]] = (
    ("GET", "/health", OPEN, status.health),
    ("GET", "/v1/health", OPEN, status.health),
    ("GET", "/live", OPEN, status.live),
    ("GET", "/ready", OPEN, status.ready),
    ("GET", "/health/deep", Scope.METRICS, status.deep_health),
    ("GET", "/props", Scope.INFER, status.props),
    ("GET", "/slots", Scope.METRICS, slots.slots),
    ("POST", "/slots/{id}", Scope.ADMIN, slots.change_slot),
    ("GET", "/metrics", Scope.METRICS, metrics.metrics),
    ("GET", "/admin/fleet", Scope.METRICS, fleet.fleet),
    ("GET", "/admin/logs", Scope.ADMIN, fleet.logs),
    ("GET", "/v1/models", Scope.INFER, models.list_models),
    ("GET", "/models", Scope.INFER, models.list_with_replicas),
    ("DELETE", "/models", Scope.ADMIN, lifecycle.remove),
    ("GET", "/models/sse", Scope.INFER, lifecycle.events),
    ("POST", "/models/load", Scope.ADMIN, lifecycle.load),
    ("POST", "/models/unload", Scope.ADMIN, lifecycle.unload),
    ("GET", "/v1/models/{model:path}", Scope.INFER, models.get_model),
    ("POST", "/v1/chat/completions", Scope.INFER, chat.chat_completions),
    ("POST", "/chat/completions", Scope.INFER, chat.chat_completions),
    ("POST", "/v1/completions", Scope.INFER, completions.completions),
    ("POST", "/completion", Scope.INFER, native.completion),
    ("POST", "/completions", Scope.INFER, native.completion),
    ("POST", "/tokenize", Scope.INFER, text.tokenize),
    ("POST", "/detokenize", Scope.INFER, text.detokenize),
    ("POST", "/apply-template", Scope.INFER, text.apply_template),
    ("POST", "/v1/route", Scope.INFER, route.route),
    ("POST", "/admin/reload", Scope.ADMIN, admin.reload),
)
OPEN_PATHS = frozenset(path for _, path, scope, _ in ROUTES if scope is OPEN)


class Gateway(FastAPI):
    """The framework's application with no layers but ours: what its own would do for a request, ours do."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(self.router, self.exception_handlers)
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


def create_app(config: GatewayConfig, running: Fleet | None = None, traces: Traces | None = None) -> FastAPI:
    """The application over running workers, or over its own, whose lives are its lifespan.

    app.state: config, fleet, policies, the table in force, which a reload replaces, and `reload` (api/admin.py);
    `awaited`: the file for which the last reload was refused, if it was for one.
    """
    check_overlays(config.aliases)
    workers = running or Fleet(config.models, config.supervision, config.residency)
    counts, limits = Metrics(), _limits(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if running else workers:
            yield
        await limits.close()

    rows = [(method, path, Guarded(endpoint, scope).answer) for method, path, scope, endpoint in ROUTES]
    app = Gateway(
        title="Corral",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # traces.py and metrics.py see to it
        routes=[Route(path, answer, methods=[method]) for method, path, answer in rows],
        exception_handlers={HTTPException: reject_route},
        middleware=[
            Middleware(Envelope, draining=lambda: workers.draining),
            Middleware(Cors, config=config.cors),
            Middleware(ErrorBoundary),
            Middleware(Access, metrics=counts, traces=traces or Traces(), paths=[path for _, path, *_ in ROUTES]),
            *([] if config.allowed_hosts is None else [Middleware(HostGuard, allowed=config.allowed_hosts)]),
            Middleware(Auth, open_paths=OPEN_PATHS),
            Middleware(BodyLimit, limit=config.body_limit),
            Middleware(
                FixedPaths, answers={(method, path): answer for method, path, answer in rows if "{" not in path}
            ),
        ],
    )
    app.state.config = config
    app.state.fleet = workers
    app.state.table = Table.of(config)
    app.state.reload = None
    app.state.awaited = None
    dispatcher = Dispatcher(workers, Admission(time.monotonic))
    app.state.policies = Policies(dispatcher, limits, Shadows(dispatcher, counts.detours), counts)
    return app


def _limits(config: GatewayConfig) -> LimitStore:
    """Where the keys' limits are kept."""
    return RedisLimits(config.redis, time.monotonic) if config.redis else MemoryLimits(time.monotonic)
