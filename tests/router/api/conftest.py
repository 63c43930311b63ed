from collections.abc import Iterator

import pytest

from tests.router.api.clients import Gateway, gateway


@pytest.fixture(scope="session")
def tiny() -> Iterator[Gateway]:
    """A gateway with one model, `tiny`."""
    with gateway("tiny") as running:
        yield running


@pytest.fixture(scope="session")
def two() -> Iterator[Gateway]:
    """A gateway with two models, `tiny` and `other`."""
    with gateway("tiny", "other") as running:
        yield running


@pytest.fixture(scope="session")
def locked() -> Iterator[Gateway]:
    """A gateway that asks for the key "open sesame"."""
    with gateway("tiny", key="open sesame") as running:
        yield running
