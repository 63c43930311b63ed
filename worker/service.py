"""The worker as a gRPC service: proto in, Request to the engine, events back, proto out.

With place_rpc.py the only file of the package that imports protos; worker/__main__.py serves it.

Templates and tokenisation run in threads of their own, so that health is answered meanwhile. Invariant: however a
Generate call ends, its request leaves the engine.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import psutil  # type: ignore[import-untyped]

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from worker.engine import Engine
from worker.errors import ContextExceeded, InvalidRequest, NotSupported, Overloaded, Unavailable
from worker.file_types import file_type_name
from worker.generation import (
    Detokenizer,
    Event,
    Finished,
    FinishReason,
    Logprobs,
    PromptScores,
    Request,
    Sink,
    Started,
    Token,
)
from worker.limits import INT32_MAX, MOST_WEIGHT, check_range, read_memory, read_sampling
from worker.place_rpc import change_place, places_reply
from worker.prompt import PromptReader
from worker.sampler import Logprob
from worker.sampling.settings import NOTHING_YET, Memory
from worker.sequence import HIGHEST_PRIORITY, LOWEST_PRIORITY, NO_PLACE, USUAL_PRIORITY
from worker.slot_files import SlotFiles
from worker.stats import STEP_BOUNDS

log = logging.getLogger("worker.service")

ERROR_DETAIL_KEY = "corral-error-bin"
ARRIVED_KEY = "corral-arrived"  # leading metadata: from here on the request is this worker's
_TOKEN_KEY = "corral-token"  # noqa: S105 (the name of a header)
NUM_TEXT_THREADS = 2
_HEALTH = "/grpc.health.v1.Health/"
_MAX_STOP_STRINGS = 1024
_NAME_SHOWN = 8  # bytes of a prefix's name

_STATUS: Mapping[type[Exception], tuple[Any, grpc.StatusCode]] = {
    InvalidRequest: (pb.INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT),
    ContextExceeded: (pb.CONTEXT_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT),
    NotSupported: (pb.NOT_SUPPORTED, grpc.StatusCode.UNIMPLEMENTED),
    Overloaded: (pb.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Unavailable: (pb.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
}
_REASON: Mapping[FinishReason, Any] = {
    FinishReason.END_OF_SEQUENCE: pb.END_OF_SEQUENCE,
    FinishReason.STOP_STRING: pb.STOP_STRING,
    FinishReason.LENGTH: pb.LENGTH,
}

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can answer."""

    engine: Engine
    prompts: PromptReader
    make_detokenizer: Callable[[Sequence[str], Sequence[int]], Detokenizer]
    description: pb.DescribeReply
    slot_files: SlotFiles | None = None  # where clients may save prefixes


def describe(metadata: Mapping[str, Any], prompts: PromptReader, **facts: Any) -> pb.DescribeReply:
    """What the file says about its model, and `facts` that it does not know, named as in the proto."""
    architecture = str(metadata.get("general.architecture", ""))
    return pb.DescribeReply(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        file_type=file_type_name(metadata),
        vocab_type=prompts.tokenizer.vocab_type,
        vocab_size=prompts.tokenizer.vocab_size,
        embedding_length=int(metadata.get(f"{architecture}.embedding_length", 0)),
        chat_template=prompts.template.source,
        bos_token=prompts.piece_text(prompts.tokenizer.bos_id),
        eos_token=prompts.piece_text(prompts.tokenizer.eos_id),
        **facts,
    )


class Inference(inference_pb2_grpc.InferenceServicer):  # type: ignore[misc]
    """Answers the RPCs: Unavailable until `open`, and new generations again from `drain` on."""

    def __init__(self, max_open: int) -> None:
        """`max_open`: Generate calls at once, whatever state they are in."""
        self._model: LoadedModel | None = None
        self._text_threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="text")
        self._max_open = max_open
        self._num_open = 0
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServicer_to_server(self, server)

    def open(self, model: LoadedModel) -> None:
        self._model = model

    async def drain(self) -> None:
        """Refuses new generations and returns when the last one has ended."""
        self._draining = True
        await self._empty.wait()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        model = self._ready()
        self._enter()
        generation = None
        try:
            await context.send_initial_metadata(((ARRIVED_KEY, "1"),))
            wanted, prompt = await self._in_text_thread(_read_request, model, request)
            stream = Stream()
            generation = model.engine.submit(wanted, stream.put)
            while not stream.has_ended:
                for reply in _replies(await stream.take(), prompt, model.prompts):
                    await context.write(reply)
        finally:
            if generation is not None:
                model.engine.cancel(generation)
            self._leave()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeReply:
        return await self._in_text_thread(_tokenize, self._ready().prompts, request)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeReply:
        return await self._in_text_thread(_detokenize, self._ready().prompts, request)

    async def ApplyTemplate(self, request: pb.ApplyTemplateRequest, context: Any) -> pb.ApplyTemplateReply:
        text = await self._in_text_thread(_render, self._ready().prompts, request.chat)
        return pb.ApplyTemplateReply(prompt=text)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeReply:
        return self._ready().description

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsReply:
        engine = self._ready().engine
        stats = engine.stats()
        return pb.StatsReply(
            num_steps=stats.num_steps,
            num_running=stats.num_running,
            num_waiting=stats.num_waiting,
            num_blocks=stats.num_blocks,
            num_free_blocks=stats.num_free_blocks,
            num_cached_blocks=stats.num_cached_blocks,
            prompt_tokens_total=stats.prompt_tokens,
            cached_tokens_total=stats.cached_tokens,
            predicted_tokens_total=stats.predicted_tokens,
            prompt_seconds_total=stats.prompt_seconds,
            predicted_seconds_total=stats.predicted_seconds,
            resident_bytes=psutil.Process().memory_info().rss,
            busy=stats.busy,
            step_seconds_total=stats.step_seconds,
            step_bounds=STEP_BOUNDS,
            step_counts=stats.step_counts,
            expected_wait=stats.expected_wait,
            advanced_sequences_total=stats.num_advanced,
            draft_rounds_total=stats.num_drafts,
            drafted_tokens_total=stats.drafted_tokens,
            accepted_tokens_total=stats.accepted_tokens,
            longest_sequence=stats.longest,
            prefix_names=_prefix_names(engine) if request.prefixes else b"",
        )

    async def Places(self, request: pb.PlacesRequest, context: Any) -> pb.PlacesReply:
        return await self._in_text_thread(places_reply, self._ready().engine)

    async def ChangePlace(self, request: pb.ChangePlaceRequest, context: Any) -> pb.ChangePlaceReply:
        model = self._ready()
        return await self._in_text_thread(change_place, model.engine, model.slot_files, request)

    def _ready(self) -> LoadedModel:
        if self._model is None:
            raise Unavailable("the model is loading")
        return self._model

    def _enter(self) -> None:
        if self._draining:
            raise Unavailable("the worker is ending")
        if self._num_open >= self._max_open:
            wait = self._model.engine.stats().expected_wait if self._model else 1.0
            raise Overloaded(f"{self._num_open} requests are open already", wait)
        self._num_open += 1
        self._empty.clear()

    def _leave(self) -> None:
        self._num_open -= 1
        if not self._num_open:
            self._empty.set()

    async def _in_text_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._text_threads, function, *arguments)


class Stream:
    """What the engine has posted for one request and nobody has sent yet. Owned by the event loop."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self.has_ended = False  # the last event was taken

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    async def take(self) -> list[Event]:
        """Everything that has arrived, once there is something."""
        await self._arrived.wait()
        self._arrived.clear()
        events, self._events = self._events, []
        self.has_ended = isinstance(events[-1], Finished)
        return events


def post_events(events: list[tuple[Sink, Event]]) -> None:
    """In the event loop: hands a step's events to their requests."""
    for sink, event in events:
        sink(event)


def _prefix_names(engine: Engine) -> bytes:
    return b"".join(name[:_NAME_SHOWN] for name in engine.prefix_names())


def _read_request(model: LoadedModel, request: pb.GenerateRequest) -> tuple[Request, str]:
    """The request, and its prompt's text if that is wanted."""
    tokens = _prompt_tokens(model.prompts, request.prompt, model.engine.capacity.context_length)
    stop = [text for text in request.stop if text]
    check_range("stop", len(stop), 0, _MAX_STOP_STRINGS)
    check_range("n_probs", request.logprobs.num_top, 0, 128)
    resumed = model.prompts.checked("resume", list(request.resume.tokens))
    check_range("weight", request.weight, 0, MOST_WEIGHT)
    check_range("priority", request.priority, LOWEST_PRIORITY, HIGHEST_PRIORITY)
    check_range("id_slot", request.place, NO_PLACE, INT32_MAX)
    check_range("n_discard", request.num_discarded, 0, INT32_MAX)
    sampling = request.sampling if request.HasField("sampling") else None
    wanted = Request(
        prompt=tokens,
        sampling=read_sampling(sampling, model.prompts),
        detokenizer=model.make_detokenizer(stop, resumed),
        max_tokens=request.max_tokens,
        logprobs=_logprobs(request.logprobs),
        cache_prompt=request.cache_prompt,
        resumed=resumed,
        memory=read_memory(request.resume.num_draws, request.resume.memory, len(resumed)),
        client=request.client,
        weight=request.weight or 1.0,
        priority=request.priority if request.HasField("priority") else USUAL_PRIORITY,
        wanted_place=request.place if request.HasField("place") else NO_PLACE,
        num_kept=request.num_kept + model.prompts.tokenizer.add_bos if request.num_kept >= 0 else -1,
        num_discarded=request.num_discarded,
    )
    return wanted, model.prompts.tokenizer.decode(tokens, special=True) if request.return_prompt else ""


def _logprobs(wanted: pb.Logprobs) -> Logprobs | None:
    return Logprobs(wanted.num_top, wanted.after_sampling, wanted.of_prompt) if wanted.enabled else None


def _prompt_tokens(prompts: PromptReader, prompt: pb.Prompt, limit: int) -> list[int]:
    kind = prompt.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("Field 'prompt': it is missing")
    parts = [_render(prompts, prompt.chat)] if kind == "chat" else list(_parts(prompt.parts))
    prompts.check_length(parts, limit)
    return prompts.tokens(parts, add_special=True, parse_special=True)


def _parts(parts: pb.PromptParts) -> Iterator[str | list[int]]:
    for part in parts.parts:
        yield part.text if part.WhichOneof("part") == "text" else list(part.tokens.ids)


def _render(prompts: PromptReader, chat: pb.Chat) -> str:
    return prompts.render(chat.messages_json, chat.tools_json, chat.template_arguments_json, chat.add_generation_prompt)


def _tokenize(prompts: PromptReader, request: pb.TokenizeRequest) -> pb.TokenizeReply:
    parts = _parts(request.content)
    tokens = prompts.tokens(parts, add_special=request.add_special, parse_special=request.parse_special)
    return pb.TokenizeReply(tokens=tokens, pieces=[prompts.tokenizer.piece(token) for token in tokens])


def _detokenize(prompts: PromptReader, request: pb.DetokenizeRequest) -> pb.DetokenizeReply:
    tokens = prompts.checked("tokens", list(request.tokens))
    return pb.DetokenizeReply(text=prompts.tokenizer.decode(tokens, special=True))


def _replies(events: Iterable[Event], prompt: str, prompts: PromptReader) -> Iterator[pb.GenerateReply]:
    """The events as messages; tokens that arrived together become one Delta. Raises what the engine failed with."""
    delta = pb.Delta()
    for event in events:
        if isinstance(event, Token):
            delta.text += event.text
            delta.tokens.append(event.token)
            delta.num_draws = event.memory.num_draws
            if (memory := _memory(event.memory)) is not None:
                delta.memory.CopyFrom(memory)
            if event.logprob is not None:
                delta.logprobs.append(_logprob(event.logprob, prompts))
            continue
        if isinstance(event, PromptScores):
            delta.prompt_logprobs.extend(_logprob(logprob, prompts) for logprob in event.logprobs)
            continue
        if delta.ByteSize():
            yield pb.GenerateReply(delta=delta)
            delta = pb.Delta()
        if isinstance(event, Started):
            yield pb.GenerateReply(started=_started(event, prompt))
        elif isinstance(event, Finished):
            yield pb.GenerateReply(finished=_finished(event))
        else:
            raise event.error
    if delta.ByteSize():
        yield pb.GenerateReply(delta=delta)


def _started(event: Started, prompt: str) -> pb.Started:
    num_prompt, num_cached, seed, place = event
    return pb.Started(
        num_prompt_tokens=num_prompt, num_cached_tokens=num_cached, seed=seed, prompt=prompt, place=place
    )


def _logprob(logprob: Logprob, prompts: PromptReader) -> pb.TokenLogprob:
    piece = prompts.tokenizer.piece
    top = [pb.TopLogprob(token=token, piece=piece(token), logprob=value) for token, value in logprob.top]
    return pb.TokenLogprob(token=logprob.token, piece=piece(logprob.token), logprob=logprob.logprob, top=top)


def _memory(memory: Memory) -> pb.SamplerMemory | None:
    """What is beside the number of draws, if there is anything."""
    if memory[1:] == NOTHING_YET[1:]:
        return None
    weighted_sum, weight = memory.adaptive or (None, None)
    return pb.SamplerMemory(
        num_xtc_draws=memory.num_xtc_draws,
        mirostat_mu=memory.mirostat_mu,
        adaptive_sum=weighted_sum,
        adaptive_weight=weight,
    )


def _finished(event: Finished) -> pb.Finished:
    return pb.Finished(
        reason=_REASON[event.reason],
        stop_string=event.stop_string,
        num_prompt_tokens=event.num_prompt_tokens,
        num_completion_tokens=event.num_completion_tokens,
        timings=pb.Timings(
            num_cached=event.num_cached_tokens,
            num_prompt=event.num_prompt_tokens - event.num_cached_tokens,
            prompt_ms=event.prompt_seconds * 1e3,
            num_predicted=event.num_predicted,
            predicted_ms=event.predicted_seconds * 1e3,
            queued_ms=event.queued_seconds * 1e3,
            num_drafted=event.num_drafted,
            num_accepted=event.num_accepted,
        ),
        truncated=event.truncated,
    )


_Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Border(grpc.aio.ServerInterceptor):
    """Where calls enter and errors leave: checks the token, if there is one, and turns exceptions into statuses."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token else None

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_HEALTH):
            return handler
        admitted = self._admits(details.invocation_metadata)
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(
            _guarded(inner) if admitted else _unauthenticated, handler.request_deserializer, handler.response_serializer
        )

    def _admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        if self._token is None:
            return True
        given = (str(value).encode() for key, value in metadata if key == _TOKEN_KEY)
        return any(hmac.compare_digest(token, self._token) for token in given)


async def _unauthenticated(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")


def _guarded(behaviour: _Behaviour) -> _Behaviour:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _refuse(context, error)

    return guarded


async def _refuse(context: Any, error: Exception) -> None:
    code, status = _STATUS.get(type(error), (pb.INTERNAL, grpc.StatusCode.INTERNAL))
    message = str(error)
    if type(error) not in _STATUS:
        log.error("a call failed", exc_info=error)
        message = "internal error of the worker"
    detail = pb.ErrorDetail(code=code, message=message)
    if isinstance(error, ContextExceeded):
        detail.num_prompt_tokens, detail.context_length = error.num_prompt_tokens, error.context_length
    elif isinstance(error, Overloaded):
        detail.wait_seconds = error.wait_seconds
    await context.abort(status, message, ((ERROR_DETAIL_KEY, detail.SerializeToString()),))
