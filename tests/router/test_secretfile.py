import os
import re
from pathlib import Path

import pytest

from router.secretfile import Exposed, check_private, read_secret
from tests.secretfiles import write_secret


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_secret_that_others_may_touch_is_refused_with_its_mode_and_the_command_to_run(
    tmp_path: Path, mode: int
) -> None:
    file = write_secret(tmp_path / "secret", "s")
    file.chmod(mode)
    for use in (read_secret, check_private):
        with pytest.raises(Exposed, match=rf"\(mode {mode:04o}\).*chmod 600 {re.escape(str(file))}"):
            use(file)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    file = write_secret(tmp_path / "secret", "s")
    file.chmod(mode)
    assert read_secret(file) == b"s"


@pytest.mark.parametrize(("mode", "refused"), [(0o440, False), (0o640, False), (0o660, True), (0o444, True)])
def test_what_is_mounted_for_our_group_may_be_read_by_it_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, refused: bool
) -> None:
    file = write_secret(tmp_path / "secret", "s")
    file.chmod(mode)
    mounted = os.stat_result((*file.stat()[:4], 0, *file.stat()[5:]))  # root's
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    monkeypatch.setattr(os, "fstat", lambda _: mounted)
    if refused:
        with pytest.raises(Exposed):
            read_secret(file)
    else:
        assert read_secret(file) == b"s"
