"""Everything that can go wrong in a worker, as types. border.py maps the tree to gRPC once; nobody parses a message.

    WorkerError
    ├── RequestError                 a request failed; the worker goes on
    │   ├── InvalidRequest           it can never succeed as written
    │   ├── ContextExceeded          its prompt does not fit the context
    │   ├── NotSupported             this model or configuration cannot do it
    │   ├── Overloaded               the waiting line is full
    │   └── Unavailable              loading or draining
    └── ModelFileError               the model cannot be loaded; the worker ends with one line
        ├── GGUFError                the file is damaged or not GGUF
        └── UnsupportedModel         an architecture, tensor type or tokenizer we do not know
"""


class WorkerError(Exception):
    """Base of all errors this package raises on purpose. The message is one line, made for a user's eyes."""


class RequestError(WorkerError):
    """A single request failed."""


class InvalidRequest(RequestError):
    """The request can never succeed as written."""


class ContextExceeded(RequestError):
    """The prompt does not fit the context."""

    def __init__(self, num_prompt_tokens: int, context_length: int, *, at_least: bool = False) -> None:
        """`at_least`: the tokens were not counted, but there are no fewer."""
        super().__init__(
            f"request ({'at least ' if at_least else ''}{num_prompt_tokens} tokens) exceeds the available context size "
            f"({context_length} tokens), try increasing it"
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.context_length = context_length


class NotSupported(RequestError):
    """This model or this start-up configuration cannot do what was asked."""


class Overloaded(RequestError):
    """The waiting line is full."""

    def __init__(self, message: str, wait_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds  # until a place in the line is likely to be free


class Unavailable(RequestError):
    """The worker is loading or draining."""


class ModelFileError(WorkerError):
    """The model cannot be loaded."""


class GGUFError(ModelFileError):
    """The file is damaged or not GGUF."""


class UnsupportedModel(ModelFileError):
    """An architecture, tensor type or tokenizer this version does not know."""
