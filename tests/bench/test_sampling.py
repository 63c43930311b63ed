import pytest

from bench.sampling import main


def test_a_row_for_each_chain_and_a_figure_for_each_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--entries", "100,700", "--chain", "greedy", "--chain", "n_probs 20"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split(" | ")[1:] == ["100, text", "100, flat", "700, text", "700, flat |"]
    assert [row.split(" | ")[0] for row in rows] == ["| greedy", "| n_probs 20"]
    assert all(float(figure) > 0 for row in rows for figure in row.strip("| ").split(" | ")[1:])
