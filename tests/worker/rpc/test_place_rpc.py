"""Places and prefixes, as the service tells and changes them."""

import grpc
import pytest

from protos import inference_pb2 as pb
from tests.worker.rpc.serving import detail_of, generate_request, sampling_of, serving, tokens_of

pytestmark = pytest.mark.anyio


async def test_a_prompt_is_found_by_what_it_says_and_by_the_names_of_its_beginnings(worker):
    async def find(tokens):
        prompt = pb.Prompt(parts=pb.PromptParts(parts=[{"tokens": {"ids": tokens}}]))
        return await worker.stub.FindPrefix(pb.FindPrefixRequest(prompt=prompt))

    assert (await find(range(2, 13))).num_held == 0
    await worker.answer(tokens=range(2, 13), max_tokens=1, cache_prompt=True)
    found = await find(range(2, 13))
    assert (found.num_held, found.num_tokens_each, len(found.names.names)) == (8, 4, 2)
    assert found.num_free == 4 * (await worker.stub.Stats(pb.StatsRequest())).num_free_blocks > 0
    assert (await find(range(2, 10))).num_held == 4, "one token is always left to compute"
    longer = await find([*range(2, 10), *range(30, 40)])
    assert (longer.num_held, longer.names.names[:2]) == (8, found.names.names)
    other = await find([9, *range(3, 13)])
    assert other.num_held == 0 and not set(other.names.names) & set(found.names.names)
    for names, num_held in ((longer.names, 8), (other.names, 0), (pb.PrefixNames(), 0)):
        assert (await worker.stub.FindPrefix(pb.FindPrefixRequest(names=names))).num_held == num_held


async def test_a_prefix_is_looked_for_while_a_step_is_computed(worker):
    worker.model.gate.clear()
    stream = worker.generate(max_tokens=1)
    await worker.until(lambda stats: stats.busy)
    assert (await worker.stub.FindPrefix(pb.FindPrefixRequest(prompt=generate_request().prompt))).num_held == 0
    worker.model.gate.set()
    assert len([reply async for reply in stream]) >= 2


async def test_a_place_is_told_with_the_settings_in_force(worker):
    started, _, _ = await worker.answer(max_tokens=4, place=2, sampling=sampling_of(temperature=0.5, top_k=7))
    assert started.place == 2
    places = (await worker.stub.Places(pb.PlacesRequest())).places
    assert [(place.number, place.task) for place in places] == [(0, -1), (1, -1), (2, 0), (3, -1)]
    place = places[2]
    assert (place.is_running, place.num_prompt_tokens, place.num_predicted, place.max_tokens) == (False, 3, 4, 4)
    assert (place.sampling.seed, place.sampling.temperature, place.sampling.top_k) == (3, 0.5, 7)


async def test_a_place_is_saved_restored_and_erased(tmp_path):
    change = {"number": 1, "filename": "a.bin"}
    request = {"tokens": range(2, 24), "max_tokens": 3, "place": 1, "cache_prompt": True}
    async with serving(tmp_path, slots=tmp_path / "slots") as worker:
        _, whole, _ = await worker.answer(**request)
        saved = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.SAVE, **change))
        assert (saved.num_tokens, saved.num_bytes) == (24, (tmp_path / "slots" / "a.bin").stat().st_size)
        erased = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.ERASE, number=1))
        assert erased.num_tokens == 25
        restored = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.RESTORE, **change))
        assert (restored.num_tokens, restored.num_bytes) == (24, saved.num_bytes)
        started, again, _ = await worker.answer(**request)
        assert (started.num_cached_tokens, tokens_of(again)) == (20, tokens_of(whole))


BAD_CHANGES = [
    ({"number": 1, "action": pb.SAVE, "filename": "../a"}, "Invalid filename"),
    ({"number": 4, "action": pb.SAVE, "filename": "a"}, "Invalid slot ID"),
    ({"number": -1, "action": pb.ERASE}, "Invalid slot ID"),
    ({"number": 0, "action": pb.RESTORE, "filename": "absent"}, "No such file"),
    ({"number": 0}, "Invalid action"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CHANGES, ids=str)
async def test_a_change_that_cannot_be_made_is_refused(tmp_path, change, message):
    async with serving(tmp_path, slots=tmp_path / "slots") as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.stub.ChangePlace(pb.ChangePlaceRequest(**change))
        status, detail = detail_of(caught.value)
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID_REQUEST)
    assert message in detail.message


async def test_without_a_folder_places_cannot_be_changed(worker):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.stub.ChangePlace(pb.ChangePlaceRequest(number=0, action=pb.ERASE))
    assert detail_of(caught.value)[1].code == pb.NOT_SUPPORTED
    assert "--slot-save-path" in detail_of(caught.value)[1].message
