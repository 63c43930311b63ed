"""The worker as a gRPC service: what each method answers.

server.py serves it; loaded.py has the model it answers with, exchange.py the generations, place_rpc.py the
places, prefix_rpc.py the prefixes. The files of this package that import protos are these and border.py and
generate_rpc.py. Templates and tokenisation run in threads of their own, so that health is answered meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from worker.footprint import Footprint
from worker.prompt import PromptReader
from worker.rpc.border import error_detail
from worker.rpc.exchange import Entrance, Exchange, Outcome
from worker.rpc.generate_rpc import prompt_parts, render
from worker.rpc.loaded import LoadedModel
from worker.rpc.place_rpc import change_place, places_reply
from worker.rpc.prefix_rpc import find_named, find_prefix
from worker.stats import STEP_BOUNDS
from worker.traces import Traces

ARRIVED_KEY = "corral-arrived"  # leading metadata: from here on the request is this worker's
_FULL_MESSAGE = 1 << 20  # bytes, from which on the next reply goes into the next message


class Inference(inference_pb2_grpc.InferenceServicer):  # type: ignore[misc]
    """Answers the RPCs: Unavailable until `open`, and new generations again from `drain` on."""

    def __init__(self, max_open: int, traces: Traces) -> None:
        """`max_open`: generations at once, whatever state they are in."""
        self._entrance = Entrance(max_open, traces)
        self._exchanges: set[Exchange] = set()
        self._footprint = Footprint()

    def add_to(self, server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServicer_to_server(self, server)

    def open(self, model: LoadedModel) -> None:
        self._entrance.model = model

    async def drain(self) -> None:
        """Refuses new generations and returns when the last one has ended; streams end with what is open in them."""
        try:
            await self._entrance.drain()
        finally:
            for exchange in self._exchanges:
                exchange.end()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        exchange = Exchange(self._entrance)
        exchange.begin(0, request)
        exchange.end()
        try:
            async for outcomes in exchange:
                for _, outcome in outcomes:
                    await _answer(context, outcome)
        finally:
            exchange.close()

    async def Serve(self, requests: AsyncIterator[pb.ServeRequest], context: Any) -> None:
        exchange = Exchange(self._entrance)
        self._exchanges.add(exchange)
        listening = asyncio.create_task(_listen(requests, exchange))
        try:
            async for outcomes in exchange:
                for message in _messages(outcomes):
                    await context.write(message)
            if listening.done():
                listening.result()  # it may have ended because of what the client sent
        finally:
            listening.cancel()
            exchange.close()
            self._exchanges.discard(exchange)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeReply:
        return await self._entrance.in_text_thread(_tokenize, self._entrance.ready().prompts, request)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeReply:
        return await self._entrance.in_text_thread(_detokenize, self._entrance.ready().prompts, request)

    async def ApplyTemplate(self, request: pb.ApplyTemplateRequest, context: Any) -> pb.ApplyTemplateReply:
        text = await self._entrance.in_text_thread(render, self._entrance.ready().prompts, request.chat)
        return pb.ApplyTemplateReply(prompt=text)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeReply:
        return self._entrance.ready().description

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsReply:
        engine = self._entrance.ready().engine
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
            num_prefix_blocks=stats.num_prefix_blocks,
            num_prefixes=stats.num_prefixes,
            prefix_digest=stats.prefix_digest,
            proportional_bytes=self._footprint.proportional(),
        )

    async def FindPrefix(self, request: pb.FindPrefixRequest, context: Any) -> pb.FindPrefixReply:
        model = self._entrance.ready()
        if request.HasField("names"):
            return find_named(model.engine, request.names)
        return await self._entrance.in_text_thread(find_prefix, model, request.prompt)

    async def Places(self, request: pb.PlacesRequest, context: Any) -> pb.PlacesReply:
        return await self._entrance.in_text_thread(places_reply, self._entrance.ready().engine)

    async def ChangePlace(self, request: pb.ChangePlaceRequest, context: Any) -> pb.ChangePlaceReply:
        model = self._entrance.ready()
        return await self._entrance.in_text_thread(change_place, model.engine, model.slot_files, request)


async def _answer(context: Any, outcome: Outcome) -> None:
    """One outcome of the only generation of a call."""
    if isinstance(outcome, pb.GenerateReply):
        await context.write(outcome)
    elif isinstance(outcome, pb.Arrived):
        await context.send_initial_metadata(((ARRIVED_KEY, "1"),))
    else:
        raise outcome


async def _listen(requests: AsyncIterator[pb.ServeRequest], exchange: Exchange) -> None:
    """What the client says. Raises InvalidRequest."""
    try:
        async for message in requests:
            for begin in message.begin:
                exchange.begin(begin.call, begin.request)
            for number in message.cancel:
                exchange.cancel(number)
    finally:
        exchange.end()


def _messages(outcomes: Iterable[tuple[int, Outcome]]) -> Iterator[pb.ServeReply]:
    """As few messages as may be, none of them much larger than it must be."""
    message, num_bytes = pb.ServeReply(), 0
    for number, outcome in outcomes:
        if num_bytes >= _FULL_MESSAGE:
            yield message
            message, num_bytes = pb.ServeReply(), 0
        reply = message.replies.add(call=number)
        _tell(reply, outcome)
        num_bytes += reply.ByteSize()
    if num_bytes:
        yield message


def _tell(reply: pb.CallReply, outcome: Outcome) -> None:
    if isinstance(outcome, pb.GenerateReply):
        reply.reply.CopyFrom(outcome)
    elif isinstance(outcome, pb.Arrived):
        reply.arrived.SetInParent()
    else:
        reply.error.CopyFrom(error_detail(outcome))


def _tokenize(prompts: PromptReader, request: pb.TokenizeRequest) -> pb.TokenizeReply:
    parts = prompt_parts(request.content)
    tokens = prompts.tokens(parts, add_special=request.add_special, parse_special=request.parse_special)
    return pb.TokenizeReply(tokens=tokens, pieces=[prompts.tokenizer.piece(token) for token in tokens])


def _detokenize(prompts: PromptReader, request: pb.DetokenizeRequest) -> pb.DetokenizeReply:
    tokens = prompts.checked("tokens", list(request.tokens))
    return pb.DetokenizeReply(text=prompts.tokenizer.decode(tokens, special=True))
