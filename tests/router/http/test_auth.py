import pytest

from router.app import OPEN_PATHS
from router.keys.keys import full_key
from tests.router.gateways import Gateway, config, running

pytestmark = pytest.mark.anyio

KEYS = (full_key(b"sk-one"), full_key("ключ".encode()))
REFUSED = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'


@pytest.fixture(scope="module")
async def gateway():
    async with running(config("a", keys=KEYS)) as started:
        yield started


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sk-one"},
        {"Authorization": "bearer  sk-one"},
        {"Authorization": "sk-one"},
        {"X-Api-Key": "sk-one"},
        {"api-key": "sk-one"},
        {"Authorization": "Bearer ключ".encode()},
    ],
)
async def test_a_valid_key_passes_in_any_of_its_headers(gateway: Gateway, headers: dict[str, str]) -> None:
    assert (await gateway.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer sk-two"},
        {"Authorization": "Basic sk-one"},
        {"Authorization": "Bearer sk-two", "X-Api-Key": "sk-one"},
        {"X-Api-Key": "sk-two", "api-key": "sk-one"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Host": "x/health?"},
        {"Host": "x/health#", "X-Forwarded-Prefix": "/health"},
    ],
)
async def test_anything_else_is_refused_in_llama_servers_words(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = await gateway.client.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.content) == (401, REFUSED)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/models",
        "/metrics",
        "/slots",
        "/props",
        "/",
        "/absent",
        "/health/",
        "//health",
        "/health/../v1/models",
        "/HEALTH",
        "/health%2f",
        "/v1/health/x",
    ],
)
async def test_every_path_but_the_open_ones_needs_a_key(gateway: Gateway, method: str, path: str) -> None:
    assert (await gateway.client.request(method, path)).status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_probes_need_no_key(gateway: Gateway, path: str) -> None:
    assert (await gateway.client.get(path)).status_code == 200
