import pytest

from router import errors
from router.errors import error_body


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (errors.InvalidRequest("no"), b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}'),
        (
            errors.ContextExceeded("too long", 5000, 2048),
            b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error",'
            b'"n_prompt_tokens":5000,"n_ctx":2048}}',
        ),
        (
            errors.Unauthorized(),
            b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}',
        ),
        (errors.NotFound(), b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'),
        (errors.ModelLoading(), b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'),
        (errors.Unavailable("later"), b'{"error":{"code":503,"message":"later","type":"unavailable_error"}}'),
        (errors.Overloaded("full"), b'{"error":{"code":429,"message":"full","type":"rate_limit_error"}}'),
        (errors.NotSupported("no"), b'{"error":{"code":501,"message":"no","type":"not_supported_error"}}'),
        (errors.WorkerLost("gone"), b'{"error":{"code":"worker_crashed","message":"gone","type":"server_error"}}'),
        (errors.InternalError(), b'{"error":{"code":500,"message":"internal error","type":"server_error"}}'),
    ],
)
def test_bodies_are_llama_servers_to_the_byte(error: errors.RouterError, body: bytes) -> None:
    assert error_body(error) == body


@pytest.mark.parametrize("error", [errors.Overloaded("full", 7), errors.Unavailable("later", 7)])
def test_what_may_succeed_later_says_when(error: errors.RouterError) -> None:
    assert error.headers == {"Retry-After": "7"}


@pytest.mark.parametrize("error", [errors.ModelFailed("m", "x"), errors.NotSupported("x"), errors.InternalError()])
def test_what_fails_every_time_asks_clients_not_to_retry(error: errors.RouterError) -> None:
    assert error.headers == {"x-should-retry": "false"}


def test_errors_do_not_share_their_headers() -> None:
    first = errors.NotSupported("x")
    first.headers["X"] = "1"
    assert "X" not in errors.NotSupported("y").headers
