"""Numbers on command lines, as argparse takes them: read, held against their range, refused with both ends of it.

arguments.py and the commands that measure use them. Invariant: what is no number, NaN included, is refused as what is
out of range is.
"""

import argparse

MOST_THREADS = 512
MOST_WHOLE = (1 << 24) - 1
_HUGE = 1e12


class Whole:
    """Reads a whole number from `least` to `most`."""

    def __init__(self, most: int = MOST_WHOLE, *, least: int = 0) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not self._least <= number <= self._most:
            raise argparse.ArgumentTypeError(f"{number} is not between {self._least} and {self._most}")
        return number


class Real:
    """Reads a number from `least` to `most`, or one divided by it."""

    def __init__(self, least: float, most: float = _HUGE, *, inverse: bool = False) -> None:
        self._least, self._most, self._inverse = least, most, inverse

    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not self._least <= number <= self._most:
            raise argparse.ArgumentTypeError(f"{text} is not between {self._least:g} and {self._most:g}")
        return 1 / number if self._inverse else number
