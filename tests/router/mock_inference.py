"""What mock_worker.py answers, by the directives in a prompt. Its docstring lists them."""

import argparse
import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable

import grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc

DEFAULT_NUM_TOKENS = 8


def directives(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+?)(?=[\s\"\\]|$)", text))


def prompt_text(prompt: pb.Prompt) -> str:
    if prompt.HasField("chat"):
        return prompt.chat.messages_json
    return "".join(part.text for part in prompt.parts.parts)


def num_prompt_tokens(prompt: pb.Prompt) -> int:
    if prompt.HasField("chat"):
        return len(prompt.chat.messages_json.split())
    return sum(len(part.tokens.ids) or len(part.text.split()) for part in prompt.parts.parts)


class MockStream:
    """What goes to one gateway; calls of the same moment share a message."""

    def __init__(self) -> None:
        self.message = pb.ServeReply()
        self.calls: dict[int, asyncio.Task[None]] = {}
        self.wake = asyncio.Event()
        self.is_open = True

    def tell(self, **reply: object) -> None:
        self.message.replies.add(**reply)  # type: ignore[arg-type]
        self.wake.set()

    def end(self) -> None:
        """It ends with the calls in it."""
        self.is_open = False
        self.wake.set()


class MockInference(inference_pb2_grpc.InferenceServicer):
    """Counts how many requests run and were cancelled; Stats tells."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.num_running = 0
        self.num_finished = 0
        self.num_cancelled = 0
        self.streams: set[MockStream] = set()
        self.held: set[bytes] = set()  # names of beginnings of prompts: it keeps all that it was asked, word by word

    async def _guard(self, context: grpc.aio.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("corral-token") != os.environ["CORRAL_WORKER_TOKEN"]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")

    async def Serve(self, requests: AsyncIterator[pb.ServeRequest], context: grpc.aio.ServicerContext) -> None:
        await self._guard(context)
        stream = MockStream()
        self.streams.add(stream)
        listening = asyncio.create_task(self._listen(requests, stream))
        try:
            while stream.is_open or stream.calls or stream.message.replies:
                if not stream.message.replies:
                    stream.wake.clear()
                    await stream.wake.wait()
                    continue
                message, stream.message = stream.message, pb.ServeReply()
                await context.write(message)
        finally:
            self.streams.discard(stream)
            for task in (listening, *stream.calls.values()):
                task.cancel()

    async def _listen(self, requests: AsyncIterator[pb.ServeRequest], stream: MockStream) -> None:
        async for message in requests:
            for begin in message.begin:
                stream.calls[begin.call] = asyncio.create_task(self._generate(begin.call, begin.request, stream))
            for number in message.cancel:
                if number in stream.calls:
                    stream.calls[number].cancel()
        stream.end()

    async def _generate(self, number: int, request: pb.GenerateRequest, stream: MockStream) -> None:
        self.num_running += 1
        try:
            stream.tell(call=number, arrived=pb.Arrived())
            finished = await self._answer(request, lambda **event: stream.tell(call=number, reply=event))
            stream.tell(call=number, **({"reply": {"finished": finished}} if finished is not None else {}))
            self.num_finished += 1
        except Refused as refused:
            stream.tell(call=number, error=refused.detail)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1
            del stream.calls[number]
            stream.wake.set()

    async def _answer(self, request: pb.GenerateRequest, say: Callable[..., None]) -> pb.Finished | None:
        """Says Started and the deltas; how it has finished, if it has."""
        text = prompt_text(request.prompt)
        self.held.update(beginnings(text))
        told = directives(text)
        if told.get("only_on", self.arguments.model.stem) != self.arguments.model.stem:
            told = {}
        if "refuse" in told:
            raise Refused(pb.ErrorCode.Value(told["refuse"]))
        num_prompt = num_prompt_tokens(request.prompt)
        if told.get("crash_after") == "0":
            await crash(told)
        seed = request.sampling.seed if request.sampling.has_seed else 7
        prompt = text if request.return_prompt else ""
        say(started=pb.Started(num_prompt_tokens=num_prompt, seed=seed, prompt=prompt))
        if not num_prompt:
            return finished(pb.NO_PROMPT, 0, 0, 0)
        if request.return_progress:
            say(progress=pb.PromptProgress(num_prompt_tokens=num_prompt, num_cached_tokens=1, num_done=2, ms=3.9))
        if request.logprobs.of_prompt:
            say(delta=pb.Delta(prompt_logprobs=prompt_logprobs(text)))
        if "tell" in told or "field" in told:
            say(delta=pb.Delta(text=what_is_asked(request, told), tokens=[0], num_draws=1))
            told["stop_at"] = "0"
        stop_at = int(told.get("stop_at", DEFAULT_NUM_TOKENS))
        num_tokens = stop_at if request.max_tokens < 0 else min(request.max_tokens, stop_at)
        for token in range(len(request.resume.tokens), num_tokens):
            if token == int(told.get("crash_after", -1)):
                await crash(told)
            if token == int(told.get("end_after", -1)):
                return None
            say(delta=delta(token, request))
            await asyncio.sleep(float(told.get("delay", 0)))
        reason = pb.END_OF_SEQUENCE if num_tokens == stop_at else pb.LENGTH
        return finished(reason, num_prompt, num_tokens, len(request.resume.tokens))

    async def FindPrefix(self, request: pb.FindPrefixRequest, context: grpc.aio.ServicerContext) -> pb.FindPrefixReply:
        await self._guard(context)
        names = list(request.names.names) or beginnings(prompt_text(request.prompt))
        num_held = next((number for number, name in enumerate(names) if name not in self.held), len(names))
        return pb.FindPrefixReply(num_held=num_held, names=pb.PrefixNames(names=names), num_tokens_each=1)

    async def Tokenize(self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext) -> pb.TokenizeReply:
        await self._guard(context)
        words = "".join(part.text for part in request.content.parts).split()
        return pb.TokenizeReply(tokens=range(len(words)), pieces=[word.encode() for word in words])

    async def Detokenize(self, request: pb.DetokenizeRequest, context: grpc.aio.ServicerContext) -> pb.DetokenizeReply:
        await self._guard(context)
        return pb.DetokenizeReply(text=" ".join(f"w{token}" for token in request.tokens))

    async def ApplyTemplate(
        self, request: pb.ApplyTemplateRequest, context: grpc.aio.ServicerContext
    ) -> pb.ApplyTemplateReply:
        await self._guard(context)
        return pb.ApplyTemplateReply(prompt=f"<chat>{request.chat.messages_json}")

    async def Describe(self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext) -> pb.DescribeReply:
        await self._guard(context)
        return pb.DescribeReply(
            model_path=str(self.arguments.model),
            architecture=self.arguments.architecture,
            file_type="Q4_1",
            num_parameters=1_000_000,
            size_bytes=2_000_000,
            vocab_type=2,
            vocab_size=1000,
            embedding_length=64,
            context_length=self.arguments.ctx_size or 2048,
            trained_context_length=2048,
            num_parallel=self.arguments.parallel,
            chat_template="{{ messages }}",
            bos_token="<s>",
            eos_token="</s>",
            num_threads=1,
            instruction_set="portable",
            name="Mock",
        )

    async def Stats(self, request: pb.StatsRequest, context: grpc.aio.ServicerContext) -> pb.StatsReply:
        await self._guard(context)
        return pb.StatsReply(
            num_steps=self.num_finished,
            num_running=self.num_running,
            num_waiting=0,
            predicted_tokens_total=self.num_cancelled,
        )

    async def Places(self, request: pb.PlacesRequest, context: grpc.aio.ServicerContext) -> pb.PlacesReply:
        await self._guard(context)
        return pb.PlacesReply(
            places=[
                pb.Place(number=number, is_running=number < self.num_running, task=-1)
                for number in range(max(self.arguments.parallel, self.num_running))
            ]
        )

    async def ChangePlace(
        self, request: pb.ChangePlaceRequest, context: grpc.aio.ServicerContext
    ) -> pb.ChangePlaceReply:
        await self._guard(context)
        return pb.ChangePlaceReply(num_tokens=10 * request.action + request.number, num_bytes=len(request.filename))


def beginnings(text: str) -> list[bytes]:
    """All that end with a word, the shortest first."""
    words = text.encode().split()
    return [b" ".join(words[:end]) for end in range(1, len(words) + 1)]


def prompt_logprobs(text: str) -> list[pb.TokenLogprob]:
    """A token for what begins every sequence, and one for each word with the space after it."""
    pieces = [b"<s>", *re.findall(rb"\S+\s*", text.encode())]
    return [pb.TokenLogprob(token=n, piece=piece, logprob=-n) for n, piece in enumerate(pieces)]


def delta(token: int, request: pb.GenerateRequest) -> pb.Delta:
    text = f"w{token}" if token == 0 else f" w{token}"
    logprobs = []
    if request.logprobs.enabled:
        top = [
            pb.TopLogprob(token=n, piece=f"t{n}".encode(), logprob=-n - 0.5) for n in range(request.logprobs.num_top)
        ]
        logprobs = [pb.TokenLogprob(token=token, piece=text.encode(), logprob=-0.5, top=top)]
    return pb.Delta(text=text, tokens=[token], num_draws=token + 1, logprobs=logprobs)


def what_is_asked(request: pb.GenerateRequest, told: dict[str, str]) -> str:
    answer = f"{getattr(request, told['field'])}" if "field" in told else ""
    return answer + (f"{getattr(request.sampling, told['tell']):g}" if "tell" in told else "")


def finished(reason: "pb.FinishReason", num_prompt: int, num_tokens: int, num_resumed: int) -> pb.Finished:
    num_predicted = num_tokens - num_resumed
    timings = pb.Timings(num_prompt=num_prompt, prompt_ms=1.0, num_predicted=num_predicted, predicted_ms=2.0)
    return pb.Finished(reason=reason, num_prompt_tokens=num_prompt, num_completion_tokens=num_tokens, timings=timings)


async def crash(told: dict[str, str]) -> None:
    if "crash_once" in told:
        try:
            os.close(os.open(told["crash_once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    await asyncio.sleep(0.05)  # what was written leaves the process
    os.kill(os.getpid(), signal.SIGKILL)


class Refused(Exception):
    """A call that fails with an ErrorDetail."""

    def __init__(self, code: "pb.ErrorCode") -> None:
        self.detail = pb.ErrorDetail(
            code=code,
            message=f"refused with {pb.ErrorCode.Name(code)}",
            num_prompt_tokens=5000,
            context_length=2048,
            wait_seconds=2.5,
        )
