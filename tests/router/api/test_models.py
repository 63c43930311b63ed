"""GET /v1/models and /v1/models/{id}."""

import pytest

from tests.router.api.clients import Gateway


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_every_name_is_listed_in_order(two: Gateway, path: str) -> None:
    listed = two.http.get(path).json()
    assert list(listed) == ["models", "object", "data"]
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["other", "tiny"]
    assert [entry["name"] for entry in listed["models"]] == ["other", "tiny"]


def test_an_entry_tells_the_models_facts(two: Gateway) -> None:
    entry = two.http.get("/v1/models/tiny").json()
    assert list(entry)[:7] == ["id", "aliases", "tags", "object", "created", "owned_by", "meta"]
    assert (entry["id"], entry["aliases"], entry["object"]) == ("tiny", ["tiny"], "model")
    assert entry["meta"] == {
        "vocab_type": 2,
        "n_vocab": 1000,
        "n_ctx": 2048,
        "n_ctx_train": 2048,
        "n_embd": 64,
        "n_params": 1000000,
        "size": 2000000,
        "ftype": "Q4_1",
    }
    assert entry["status"]["value"] == "loaded"


def test_an_unknown_name_is_not_found(two: Gateway) -> None:
    answer = two.http.get("/v1/models/tinny")
    assert answer.status_code == 404
    assert "did you mean 'tiny'" in answer.json()["error"]["message"]
