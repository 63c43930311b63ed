"""Generations between the proto and the engine: a GenerateRequest to a Request, Events to GenerateReplies.

exchange.py calls it; `read_request` in a text thread, because it renders and tokenises. Invariant: the numbers of a
Request have been checked against the vocabulary and their ranges.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from protos import inference_pb2 as pb
from worker.errors import InvalidRequest
from worker.generation import (
    Event,
    Finished,
    FinishReason,
    Logprobs,
    PromptProgress,
    PromptScores,
    Request,
    Started,
    Token,
)
from worker.prompt import PromptReader
from worker.rpc.limits import INT32_MAX, MOST_WEIGHT, check_range, read_guessing, read_memory, read_sampling
from worker.rpc.loaded import LoadedModel
from worker.sampler import Logprob
from worker.sampling.settings import NOTHING_YET, Memory
from worker.sequence import AS_TOLD, HIGHEST_PRIORITY, LOWEST_PRIORITY, NO_PLACE, USUAL_PRIORITY

_MAX_STOP_STRINGS = 1024
_REASON: Mapping[FinishReason, Any] = {
    FinishReason.END_OF_SEQUENCE: pb.END_OF_SEQUENCE,
    FinishReason.STOP_STRING: pb.STOP_STRING,
    FinishReason.LENGTH: pb.LENGTH,
    FinishReason.NO_PROMPT: pb.NO_PROMPT,
}


def read_request(model: LoadedModel, request: pb.GenerateRequest) -> tuple[Request, str]:
    """The request, and its prompt's text if that is wanted."""
    tokens = prompt_tokens(model.prompts, request.prompt, model.engine.capacity.context_length)
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
        tells_progress=request.return_progress,
        max_seconds=request.max_predict_ms / 1e3,
        guessing=read_guessing(request.guessing) if request.HasField("guessing") else AS_TOLD,
    )
    return wanted, model.prompts.tokenizer.decode(tokens, special=True) if request.return_prompt else ""


def _logprobs(wanted: pb.Logprobs) -> Logprobs | None:
    return Logprobs(wanted.num_top, wanted.after_sampling, wanted.of_prompt) if wanted.enabled else None


def prompt_tokens(prompts: PromptReader, prompt: pb.Prompt, limit: int) -> list[int]:
    """Raises InvalidRequest, ContextExceeded."""
    kind = prompt.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("Field 'prompt': it is missing")
    parts = [render(prompts, prompt.chat)] if kind == "chat" else list(prompt_parts(prompt.parts))
    prompts.check_length(parts, limit)
    return prompts.tokens(parts, add_special=True, parse_special=True)


def prompt_parts(parts: pb.PromptParts) -> Iterator[str | list[int]]:
    for part in parts.parts:
        yield part.text if part.WhichOneof("part") == "text" else list(part.tokens.ids)


def render(prompts: PromptReader, chat: pb.Chat) -> str:
    return prompts.render(
        chat.messages_json,
        chat.tools_json,
        chat.template_arguments_json,
        add_generation_prompt=chat.add_generation_prompt,
        continued=chat.continued,
    )


def replies(events: Iterable[Event], prompt: str, prompts: PromptReader) -> Iterator[pb.GenerateReply | Exception]:
    """The events as messages; tokens that arrived together become one Delta. The last one may be why it failed."""
    reply = pb.GenerateReply()
    for event in events:
        if isinstance(event, Token):
            _add_token(reply.delta, event, prompts)
            continue
        if isinstance(event, PromptScores):
            reply.delta.prompt_logprobs.extend(_logprob(logprob, prompts) for logprob in event.logprobs)
            continue
        if reply.HasField("delta"):
            yield reply
            reply = pb.GenerateReply()
        if isinstance(event, Started):
            yield pb.GenerateReply(started=_started(event, prompt))
        elif isinstance(event, PromptProgress):
            yield pb.GenerateReply(progress=_progress(event))
        elif isinstance(event, Finished):
            yield pb.GenerateReply(finished=_finished(event))
        else:
            yield event.error
    if reply.HasField("delta"):
        yield reply


def _add_token(delta: pb.Delta, event: Token, prompts: PromptReader) -> None:
    delta.text += event.text
    delta.tokens.append(event.token)
    delta.num_draws = event.memory.num_draws
    if (memory := _memory(event.memory)) is not None:
        delta.memory.CopyFrom(memory)
    if event.logprob is not None:
        delta.logprobs.append(_logprob(event.logprob, prompts))


def _started(event: Started, prompt: str) -> pb.Started:
    num_prompt, num_cached, seed, place = event
    return pb.Started(
        num_prompt_tokens=num_prompt, num_cached_tokens=num_cached, seed=seed, prompt=prompt, place=place
    )


def _progress(event: PromptProgress) -> pb.PromptProgress:
    num_prompt, num_cached, num_done, seconds = event
    return pb.PromptProgress(
        num_prompt_tokens=num_prompt, num_cached_tokens=num_cached, num_done=num_done, ms=1e3 * seconds
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
