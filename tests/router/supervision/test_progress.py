import pytest

from router.supervision.progress import Progress, read_progress


def test_a_progress_line_is_read() -> None:
    assert read_progress('{"progress": 0.25, "stage": "compiling"}') == Progress("compiling", 0.25)


def test_a_fraction_stays_between_0_and_1() -> None:
    assert read_progress('{"progress": 7, "stage": "x"}') == Progress("x", 1.0)


@pytest.mark.parametrize(
    "line",
    ["", "loading", '{"stage": "x"}', '{"progress": "half"}', '{"progress": null}', "{broken", '{"progress": true}'],
)
def test_other_lines_are_not_progress(line: str) -> None:
    assert read_progress(line) is None
