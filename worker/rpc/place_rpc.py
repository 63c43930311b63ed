"""The RPCs about places: what they do, and saving, restoring and erasing what was computed for them.

service.py calls it, in a text thread, because files are read and written and the engine is waited for.
"""

from protos import inference_pb2 as pb
from worker.cache.places import PlaceState
from worker.cache.slot_files import SlotFiles
from worker.engine import Engine
from worker.errors import InvalidRequest, NotSupported
from worker.rpc.limits import sampling_fields

_NO_FOLDER = "This server does not support slots action. Start it with `--slot-save-path`"


def places_reply(engine: Engine) -> pb.PlacesReply:
    """Every place, in order."""
    states = {state.number: state for state in engine.call(engine.places.states).result()}
    numbers = range(engine.capacity.max_running)
    return pb.PlacesReply(
        places=[_place(states[number]) if number in states else pb.Place(number=number, task=-1) for number in numbers]
    )


def _place(state: PlaceState) -> pb.Place:
    return pb.Place(
        number=state.number,
        is_running=state.is_running,
        task=state.task,
        num_prompt_tokens=state.num_prompt_tokens,
        num_prompt_computed=state.num_prompt_computed,
        num_cached=state.num_cached_tokens,
        num_predicted=state.num_predicted,
        num_remaining=state.num_remaining,
        has_new_line=state.has_new_line,
        sampling=pb.Sampling(
            seed=state.sampling.seed,
            has_seed=True,
            samplers=pb.SamplerOrder(names=state.sampling.samplers),
            **sampling_fields(state.sampling),
        ),
        max_tokens=state.max_tokens,
    )


def change_place(engine: Engine, files: SlotFiles | None, request: pb.ChangePlaceRequest) -> pb.ChangePlaceReply:
    """Raises InvalidRequest, NotSupported, OSError."""
    if files is None:
        raise NotSupported(_NO_FOLDER)
    match request.action:
        case pb.SAVE:
            return _save(engine, files, request.number, request.filename)
        case pb.RESTORE:
            return _restore(engine, files, request.number, request.filename)
        case pb.ERASE:
            num_erased = engine.call(lambda: engine.places.erase(request.number)).result()
            return pb.ChangePlaceReply(num_tokens=num_erased)
    raise InvalidRequest("Invalid action")


def _save(engine: Engine, files: SlotFiles, number: int, name: str) -> pb.ChangePlaceReply:
    files.check(name)
    saved = engine.carry_out(engine.places.copy(number)).result()
    return pb.ChangePlaceReply(num_tokens=len(saved.tokens), num_bytes=files.save(name, saved))


def _restore(engine: Engine, files: SlotFiles, number: int, name: str) -> pb.ChangePlaceReply:
    capacity = engine.capacity
    saved, num_bytes = files.load(name, capacity.block_size, capacity.num_blocks, engine.prefixes.block_bytes)
    engine.carry_out(engine.places.fill(number, saved)).result()
    return pb.ChangePlaceReply(num_tokens=len(saved.tokens), num_bytes=num_bytes)
