from tests.router.api.conftest import locked, two

__all__ = ["locked", "two"]
