import pytest

from router.remotes.addresses import BadAddress, Target, joined, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.0.0.7:9000", Target("10.0.0.7:9000", "10.0.0.7", 9000)),
        ("worker-1.models.svc:1", Target("worker-1.models.svc:1", "worker-1.models.svc", 1)),
        ("[::1]:9000", Target("[::1]:9000", "::1", 9000)),
        ("dns:///workers:9000", Target("dns:///workers:9000", "workers", 9000, is_name=True)),
        ("unix:/run/w.sock", Target("unix:/run/w.sock")),
    ],
)
def test_a_worker_is_named_by_address_name_or_socket(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":9000",
        "host:0",
        "host:65536",
        "host:9x",
        "http://host:80",
        "::1:9000",
        "unix:",
        "dns:///:1",
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadAddress, match=r"HOST:PORT, dns:///NAME:PORT or unix:PATH"):
        parse_target(text)


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    assert (joined("::1", 9000), joined("10.0.0.7", 9000)) == ("[::1]:9000", "10.0.0.7:9000")
