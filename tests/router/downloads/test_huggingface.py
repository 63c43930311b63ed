import pytest

from router.downloads.huggingface import RemoteFile, choose, parse_source
from router.errors import CommandError


def chosen(paths: list[str], quant: str | None = None) -> list[str]:
    return [file.path for file in choose([RemoteFile(path, None, None) for path in paths], quant)]


FILES = ["m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_XS.gguf", "m-BF16.gguf", "mmproj-m-F16.gguf"]


def test_the_default_is_q4_k_m() -> None:
    assert chosen(FILES) == ["m-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("quant", "path"),
    [("Q8_0", "m-Q8_0.gguf"), ("q4_0", "m-Q4_0.gguf"), ("iq4_xs", "m-IQ4_XS.gguf"), ("bf16", "m-BF16.gguf")],
)
def test_a_quant_is_found_whatever_its_case(quant: str, path: str) -> None:
    assert chosen(FILES, quant) == [path]


def test_part_of_a_quant_is_not_that_quant() -> None:
    with pytest.raises(CommandError, match=r"has no Q4 \(it has BF16, IQ4_XS, Q4_0, Q4_K_M, Q8_0\)"):
        chosen(FILES, "Q4")


def test_without_the_default_the_first_file_is_taken_but_never_a_companion() -> None:
    assert chosen(["mmproj-F16.gguf", "z-Q8_0.gguf", "b-Q6_K.gguf"]) == ["b-Q6_K.gguf"]
    with pytest.raises(CommandError, match="no GGUF model"):
        chosen(["mmproj-F16.gguf"])


def test_all_parts_of_a_split_model_come_in_order() -> None:
    parts = [f"Q4_K_M/m-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert chosen([parts[2], "m-Q8_0.gguf", parts[0], parts[1]]) == parts


def test_a_missing_part_is_an_error() -> None:
    with pytest.raises(CommandError, match="1 of the 2 parts"):
        chosen(["m-Q4_K_M-00001-of-00002.gguf"])


def test_sources_are_read() -> None:
    assert parse_source("hf:user/Repo.1-GGUF") == ("user/Repo.1-GGUF", None)
    assert parse_source("hf:user/repo:Q8_0") == ("user/repo", "Q8_0")


@pytest.mark.parametrize("source", ["hf:repo", "hf:a/b/c", "hf:../etc", "hf:a/..", "hf:a/b?x", "hf:/b"])
def test_a_malformed_source_is_refused(source: str) -> None:
    with pytest.raises(CommandError, match="is what is needed"):
        parse_source(source)
