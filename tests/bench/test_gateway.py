"""What the gateway's cost is computed from."""

from bench import gateway


def test_the_table_shows_medians_by_process() -> None:
    figures = gateway.Figures([1.0, 9.0, 2.0], [3.0, 4.0, 30.0], [10.0, 12.0, 11.0], [[5.0, 1.0]] * 3, [[2.0]] * 3)
    options = gateway._parser().parse_args([])
    assert gateway.as_markdown({"corral": figures}, options).splitlines()[-1] == (
        "| corral | 2.00 | 4.00 | 11 | 6 (5 + 1) | 2 |"
    )


def test_a_run_measures_a_real_gateway(capsys) -> None:
    arguments = ["--rounds", "1", "--seconds", "0.1", "--streams", "2", "--tokens", "4", "--connections", "2"]
    assert gateway.main([*arguments, "--pause", "0.001"]) == 0
    name, *cells = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert name == "corral" and len(cells) == 5
