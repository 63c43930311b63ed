import pytest

from router.config import CorsConfig
from router.keys.keys import full_key
from tests.router.gateways import config, running

pytestmark = pytest.mark.anyio

PREFLIGHT = {
    "Origin": "http://page",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def cors_headers(answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def test_without_cors_no_origin_is_let_in_and_options_says_nothing() -> None:
    async with running(config("a"), wait=False) as gateway:
        assert cors_headers(await gateway.client.get("/live", headers={"Origin": "http://page"})) == {}
        answer = await gateway.client.options("/v1/models", headers=PREFLIGHT)
        assert (answer.status_code, answer.content, cors_headers(answer)) == (200, b"", {})


async def test_all_origins_get_a_star_and_their_headers_named() -> None:
    async with running(config("a", cors=CorsConfig(origins=("*",))), wait=False) as gateway:
        answer = await gateway.client.options("/v1/models", headers=PREFLIGHT)
        assert cors_headers(answer) == {
            "access-control-allow-origin": "*",
            "access-control-expose-headers": "x-request-id",
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": "authorization,content-type",
            "access-control-max-age": "600",
        }


async def test_only_listed_origins_are_named_and_caches_are_told() -> None:
    cors = CorsConfig(origins=("http://page",), credentials=True)
    async with running(config("a", cors=cors), wait=False) as gateway:
        listed = await gateway.client.get("/live", headers={"Origin": "http://page"})
        assert listed.headers["access-control-allow-origin"] == "http://page"
        assert listed.headers["access-control-allow-credentials"] == "true"
        for origin in ("http://page.evil", "null", "http://pag", "*"):
            other = await gateway.client.get("/live", headers={"Origin": origin})
            assert cors_headers(other) == {}
            assert other.headers["vary"] == "Origin"


async def test_localhost_in_the_list_is_every_origin_of_this_machine_and_no_other() -> None:
    cors = CorsConfig(origins=("localhost", "http://page"))
    local = ("http://localhost", "https://localhost:1", "http://127.0.0.1:3000", "http://[::1]:8", "http://page")
    others = ("http://localhost.evil.com", "http://a.localhost", "http://localhost:x", "http://localhost@evil", "null")
    async with running(config("a", cors=cors), wait=False) as gateway:
        for origin in (*local, *others):
            answer = await gateway.client.get("/live", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if origin in local else None)


async def test_a_star_never_goes_with_credentials() -> None:
    cors = CorsConfig(origins=("*",), credentials=True)
    async with running(config("a", cors=cors), wait=False) as gateway:
        answer = await gateway.client.options("/v1/models", headers=PREFLIGHT)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_refusal_can_be_read_by_the_page_and_a_preflight_needs_no_key() -> None:
    settings = config("a", cors=CorsConfig(origins=("*",)), keys=(full_key(b"k"),))
    async with running(settings, wait=False) as gateway:
        refused = await gateway.client.get("/v1/models", headers={"Origin": "http://page"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
        assert (await gateway.client.options("/v1/models", headers=PREFLIGHT)).status_code == 200
