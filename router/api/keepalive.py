"""The field `keep_alive` of a request, as Ollama has it: how long its model stays loaded when it has been answered.

Read by routed.py. A number is seconds, a text is a duration ("10m"), anything negative means for ever, and 0 means that
the model may go at once. Invariant: what it asks for ends with the next request that says something else.
"""

import math
from typing import Any

from router.api.fields import Field, Fields, wrong_type
from router.configfile.kinds import SECONDS, WrongValue


def duration(field: Field, value: Any) -> float:
    """Seconds; infinity for ever."""
    if isinstance(value, str):
        value = value.strip()
        if value.startswith("-"):
            _duration(field, value[1:])
            return math.inf
    elif not isinstance(value, bool) and isinstance(value, int | float) and value < 0:
        return math.inf
    return _duration(field, value)


def _duration(field: Field, value: Any) -> float:
    number = float(value) if isinstance(value, str) and value.isdecimal() else value
    try:
        seconds: float = SECONDS.read(number)
    except WrongValue:
        raise wrong_type(field.name, 'seconds or a duration such as "10m"', value) from None
    return seconds


KEEP_ALIVE = Fields(Field("keep_alive", duration))
