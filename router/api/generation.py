"""From a checked request to its running generations: one per choice of every prompt.

Called by api/chat.py, completions.py and native.py. Invariant: nothing is sent to a worker before the whole request
has been read and found good, and every answer tells in its headers who served it.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import out_of_range
from router.api.sampling import Parameters
from router.api.streaming import Events, EventStream, answer, encode, gather
from router.api.wire import Completion, Head, collect
from router.call import Call
from router.dispatch import Generation
from router.http.answer import raw

MAX_GENERATIONS = 512  # of one request: prompts times choices


class Run(NamedTuple):
    """The generations of one HTTP request, choices of the same prompt in a row."""

    call: Call
    head: Head
    parameters: Parameters
    generations: Sequence[Generation]

    async def completions(self) -> list[Completion]:
        """All of them, to their ends."""
        return await gather([collect(each) for each in self.generations])

    def event_stream(self, events: Sequence[Events], closing: Callable[[], bytes]) -> EventStream:
        """Frames as they come."""
        frames = partial(encode, self.generations, events, closing)
        return EventStream(frames, self.parameters["sse_ping_interval"], self.call.headers)

    async def answer(self, request: Request, work: Coroutine[Any, Any, Response]) -> Response:
        """The response of `work`, or none if the client leaves first."""
        return await answered(request, self.call, work)


async def answered(request: Request, call: Call, work: Coroutine[Any, Any, Response]) -> Response:
    """The response of `work` with the headers of the call it was about."""
    response = await answer(request, work)
    response.raw_headers += raw(call.headers())
    return response


def run(call: Call, parameters: Parameters, prompts: Sequence[pb.Prompt], *, return_prompt: bool) -> Run:
    """The generations a request asks for; their calls begin when they are awaited."""
    num_choices = parameters["n_cmpl"]
    if len(prompts) * num_choices > MAX_GENERATIONS:
        raise out_of_range("prompt (number of prompts times n)", 1, MAX_GENERATIONS, len(prompts) * num_choices)
    messages = [
        parameters.request(f"{call.request_id}-{index}-{choice}", prompt, choice, return_prompt=return_prompt)
        for index, prompt in enumerate(prompts)
        for choice in range(num_choices)
    ]
    return Run(call, Head(call.route.alias), parameters, call.generate(messages))
