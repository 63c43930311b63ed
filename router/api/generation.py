"""From a checked request to its running generations: one per choice of every prompt.

Called by api/chat.py, completions.py and native.py. Invariant: nothing is sent to a worker before the whole request
has been read and found good.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from protos import inference_pb2 as pb
from router.api.fields import out_of_range
from router.api.sampling import Parameters
from router.api.streaming import Events, EventStream, Replies, encoded, gather
from router.api.wire import Completion, Head, collect
from router.dispatch import Dispatcher

MAX_GENERATIONS = 512  # of one request: prompts times choices


@dataclass(frozen=True, slots=True)
class Run:
    """The generations of one HTTP request, choices of the same prompt in a row."""

    head: Head
    parameters: Parameters
    streams: Sequence[Replies]

    async def completions(self) -> list[Completion]:
        """All of them, to their ends."""
        return await gather([collect(stream) for stream in self.streams])

    def event_stream(self, events: Sequence[Events], closing: Callable[[], bytes]) -> EventStream:
        """Frames as they come."""
        return EventStream(encoded(self.streams, events, closing), self.parameters["sse_ping_interval"])


def run(request: Request, parameters: Parameters, prompts: Sequence[pb.Prompt], *, return_prompt: bool) -> Run:
    """The generations a request asks for; their calls begin when they are awaited."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    route = dispatcher.resolve(parameters["model"])
    num_choices = parameters["n_cmpl"]
    if len(prompts) * num_choices > MAX_GENERATIONS:
        raise out_of_range("prompt (number of prompts times n)", 1, MAX_GENERATIONS, len(prompts) * num_choices)
    name = str(getattr(request.state, "request_id", ""))
    messages = [
        parameters.request(f"{name}-{index}-{choice}", prompt, choice, return_prompt=return_prompt)
        for index, prompt in enumerate(prompts)
        for choice in range(num_choices)
    ]
    return Run(Head(route.alias), parameters, [dispatcher.generate(route, message) for message in messages])
