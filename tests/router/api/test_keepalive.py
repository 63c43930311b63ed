import math
from typing import Any

import pytest

from router.api.fields import read
from router.api.keepalive import KEEP_ALIVE
from router.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (0, 0.0),
        ("0", 0.0),
        (90, 90.0),
        ("90", 90.0),
        (1.5, 1.5),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_ollamas_ways_to_say_how_long(given: Any, seconds: float | None) -> None:
    assert read(KEEP_ALIVE, {"keep_alive": given})["keep_alive"] == seconds


@pytest.mark.parametrize("given", ["", "soon", "-", "-soon", True, [], {}, "5 m", math.nan])
def test_what_is_no_time_is_refused_by_name(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="'keep_alive': expected seconds or a duration"):
        read(KEEP_ALIVE, {"keep_alive": given})
