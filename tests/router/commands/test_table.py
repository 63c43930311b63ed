"""What people see of the fleet."""

from io import StringIO
from typing import Any

from rich.console import Console

from router.commands.table import fleet_table


def row(**told: Any) -> str:
    out = StringIO()
    console = Console(file=out, width=400)
    console.print(fleet_table([{"name": "m", "state": "ready", "reason": "", **told}]))
    return out.getvalue().splitlines()[1]


def test_why_a_worker_elsewhere_is_refused_stands_beside_a_model_that_serves() -> None:
    remote = [
        {"address": "10.0.0.7:9000", "state": "ready", "reason": "old news"},
        {"address": "10.0.0.8:9000", "state": "failed", "reason": "it serves another model"},
    ]
    shown = row(remote=remote)
    assert shown.endswith("10.0.0.8:9000: it serves another model")
    assert "10.0.0.8:9000 (failed)" in shown and "old news" not in shown


def test_a_reason_that_is_the_models_own_is_shown_once() -> None:
    remote = [{"address": "10.0.0.8:9000", "state": "unreachable", "reason": "no answer within 5 s"}]
    assert row(reason="no answer within 5 s", remote=remote).count("no answer within 5 s") == 1


def test_memory_is_what_the_machine_gives_and_what_is_resident_where_that_is_not_known() -> None:
    assert "200 MB" in row(resident_bytes=300_000_000, proportional_bytes=200_000_000)
    assert "300 MB" in row(resident_bytes=300_000_000, proportional_bytes=None)
