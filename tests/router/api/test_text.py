"""POST /tokenize, /detokenize and /apply-template."""

from protos import inference_pb2 as pb
from router.api.text import _piece, _pieces
from tests.router.api.clients import Gateway


def test_text_becomes_tokens(tiny: Gateway) -> None:
    assert tiny.post("/tokenize", content="a b c").text == '{"tokens":[0,1,2]}'
    assert tiny.post("/tokenize", content=["a b ", "c"]).text == '{"tokens":[0,1,2]}'
    assert tiny.post("/tokenize").text == '{"tokens":[]}'


def test_an_evaluation_harness_may_call_the_text_a_prompt(tiny: Gateway) -> None:
    assert tiny.post("/tokenize", prompt="a b c", add_special_tokens=False).json() == {"tokens": [0, 1, 2]}


def test_pieces_are_text_where_they_can_be(tiny: Gateway) -> None:
    answer = tiny.post("/tokenize", content="a é", with_pieces=True)
    assert answer.text == '{"tokens":[{"id":0,"piece":"a"},{"id":1,"piece":"é"}]}'
    halves = pb.TokenizeReply(tokens=[5, 6], pieces=[b"\xc3", b"\xa9"])
    assert _pieces(halves) == [{"id": 5, "piece": [195]}, {"id": 6, "piece": [169]}]
    assert _piece(b"") == ""


def test_tokens_become_text(tiny: Gateway) -> None:
    assert tiny.post("/detokenize", tokens=[3, 4]).text == '{"content":"w3 w4"}'
    assert tiny.post("/detokenize").text == '{"content":""}'


def test_messages_become_a_prompt(tiny: Gateway) -> None:
    answer = tiny.post("/apply-template", messages=[{"role": "user", "content": "hi"}])
    assert answer.json() == {"prompt": '<chat>[{"role":"user","content":"hi"}]'}


def test_the_model_is_chosen_by_name(two: Gateway) -> None:
    assert two.post("/tokenize", content="a").status_code == 400
    assert two.post("/tokenize", content="a", model="other").status_code == 200
    assert two.post("/detokenize", tokens=[], model="absent").status_code == 404
