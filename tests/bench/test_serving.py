"""bench/serving.py: what it makes of the rounds."""

import pytest

from bench.serving import as_markdown, main


def test_a_row_is_the_median_of_each_servers_rounds() -> None:
    found = {"ours": [{"gap": 1.0}, {"gap": 9.0}, {"gap": 2.0}], "theirs": [{"gap": 40.0}, {"gap": 20.0}]}
    assert as_markdown(found).splitlines()[2:] == ["| gap | 2 | 30 |"]


def test_an_unknown_scenario_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-m", "model.gguf", "--only", "streams,storms"])
    assert "no scenario 'storms'; there are streams, stall, prefix, leavers" in capsys.readouterr().err
