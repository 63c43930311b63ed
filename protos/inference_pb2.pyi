from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    INVALID_REQUEST: _ClassVar[ErrorCode]
    CONTEXT_EXCEEDED: _ClassVar[ErrorCode]
    NOT_SUPPORTED: _ClassVar[ErrorCode]
    OVERLOADED: _ClassVar[ErrorCode]
    UNAVAILABLE: _ClassVar[ErrorCode]
    INTERNAL: _ClassVar[ErrorCode]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    END_OF_SEQUENCE: _ClassVar[FinishReason]
    STOP_STRING: _ClassVar[FinishReason]
    LENGTH: _ClassVar[FinishReason]
    NO_PROMPT: _ClassVar[FinishReason]

class PlaceAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACE_ACTION_UNSPECIFIED: _ClassVar[PlaceAction]
    SAVE: _ClassVar[PlaceAction]
    RESTORE: _ClassVar[PlaceAction]
    ERASE: _ClassVar[PlaceAction]
ERROR_CODE_UNSPECIFIED: ErrorCode
INVALID_REQUEST: ErrorCode
CONTEXT_EXCEEDED: ErrorCode
NOT_SUPPORTED: ErrorCode
OVERLOADED: ErrorCode
UNAVAILABLE: ErrorCode
INTERNAL: ErrorCode
FINISH_REASON_UNSPECIFIED: FinishReason
END_OF_SEQUENCE: FinishReason
STOP_STRING: FinishReason
LENGTH: FinishReason
NO_PROMPT: FinishReason
PLACE_ACTION_UNSPECIFIED: PlaceAction
SAVE: PlaceAction
RESTORE: PlaceAction
ERASE: PlaceAction

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "num_prompt_tokens", "context_length", "wait_seconds")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    num_prompt_tokens: int
    context_length: int
    wait_seconds: float
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., num_prompt_tokens: _Optional[int] = ..., context_length: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PromptPart(_message.Message):
    __slots__ = ("text", "tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: TokenIds
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ...) -> None: ...

class PromptParts(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[PromptPart]
    def __init__(self, parts: _Optional[_Iterable[_Union[PromptPart, _Mapping]]] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages_json", "tools_json", "template_arguments_json", "add_generation_prompt", "continued")
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    TOOLS_JSON_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONTINUED_FIELD_NUMBER: _ClassVar[int]
    messages_json: str
    tools_json: str
    template_arguments_json: str
    add_generation_prompt: bool
    continued: str
    def __init__(self, messages_json: _Optional[str] = ..., tools_json: _Optional[str] = ..., template_arguments_json: _Optional[str] = ..., add_generation_prompt: _Optional[bool] = ..., continued: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("parts", "chat")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    parts: PromptParts
    chat: Chat
    def __init__(self, parts: _Optional[_Union[PromptParts, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ...) -> None: ...

class LogitBias(_message.Message):
    __slots__ = ("token", "bias", "text")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token: int
    bias: float
    text: str
    def __init__(self, token: _Optional[int] = ..., bias: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class SamplerOrder(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("seed", "has_seed", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "repeat_last_n", "logit_bias", "ignore_eos", "min_keep", "dynatemp_range", "dynatemp_exponent", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "samplers")
    SEED_FIELD_NUMBER: _ClassVar[int]
    HAS_SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPEAT_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPEAT_LAST_N_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    MIN_KEEP_FIELD_NUMBER: _ClassVar[int]
    DYNATEMP_RANGE_FIELD_NUMBER: _ClassVar[int]
    DYNATEMP_EXPONENT_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    TOP_N_SIGMA_FIELD_NUMBER: _ClassVar[int]
    XTC_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    XTC_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DRY_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    DRY_BASE_FIELD_NUMBER: _ClassVar[int]
    DRY_ALLOWED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DRY_PENALTY_LAST_N_FIELD_NUMBER: _ClassVar[int]
    DRY_SEQUENCE_BREAKERS_FIELD_NUMBER: _ClassVar[int]
    MIROSTAT_FIELD_NUMBER: _ClassVar[int]
    MIROSTAT_TAU_FIELD_NUMBER: _ClassVar[int]
    MIROSTAT_ETA_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_TARGET_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_DECAY_FIELD_NUMBER: _ClassVar[int]
    SAMPLERS_FIELD_NUMBER: _ClassVar[int]
    seed: int
    has_seed: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repeat_last_n: int
    logit_bias: _containers.RepeatedCompositeFieldContainer[LogitBias]
    ignore_eos: bool
    min_keep: int
    dynatemp_range: float
    dynatemp_exponent: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: _containers.RepeatedScalarFieldContainer[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    adaptive_target: float
    adaptive_decay: float
    samplers: SamplerOrder
    def __init__(self, seed: _Optional[int] = ..., has_seed: _Optional[bool] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repeat_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repeat_last_n: _Optional[int] = ..., logit_bias: _Optional[_Iterable[_Union[LogitBias, _Mapping]]] = ..., ignore_eos: _Optional[bool] = ..., min_keep: _Optional[int] = ..., dynatemp_range: _Optional[float] = ..., dynatemp_exponent: _Optional[float] = ..., typical_p: _Optional[float] = ..., top_n_sigma: _Optional[float] = ..., xtc_probability: _Optional[float] = ..., xtc_threshold: _Optional[float] = ..., dry_multiplier: _Optional[float] = ..., dry_base: _Optional[float] = ..., dry_allowed_length: _Optional[int] = ..., dry_penalty_last_n: _Optional[int] = ..., dry_sequence_breakers: _Optional[_Iterable[str]] = ..., mirostat: _Optional[int] = ..., mirostat_tau: _Optional[float] = ..., mirostat_eta: _Optional[float] = ..., adaptive_target: _Optional[float] = ..., adaptive_decay: _Optional[float] = ..., samplers: _Optional[_Union[SamplerOrder, _Mapping]] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("enabled", "num_top", "after_sampling", "of_prompt")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    NUM_TOP_FIELD_NUMBER: _ClassVar[int]
    AFTER_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    OF_PROMPT_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    num_top: int
    after_sampling: bool
    of_prompt: bool
    def __init__(self, enabled: _Optional[bool] = ..., num_top: _Optional[int] = ..., after_sampling: _Optional[bool] = ..., of_prompt: _Optional[bool] = ...) -> None: ...

class SamplerMemory(_message.Message):
    __slots__ = ("num_xtc_draws", "mirostat_mu", "adaptive_sum", "adaptive_weight")
    NUM_XTC_DRAWS_FIELD_NUMBER: _ClassVar[int]
    MIROSTAT_MU_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_SUM_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    num_xtc_draws: int
    mirostat_mu: float
    adaptive_sum: float
    adaptive_weight: float
    def __init__(self, num_xtc_draws: _Optional[int] = ..., mirostat_mu: _Optional[float] = ..., adaptive_sum: _Optional[float] = ..., adaptive_weight: _Optional[float] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("tokens", "num_draws", "memory")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAWS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    num_draws: int
    memory: SamplerMemory
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., num_draws: _Optional[int] = ..., memory: _Optional[_Union[SamplerMemory, _Mapping]] = ...) -> None: ...

class Guessing(_message.Message):
    __slots__ = ("most", "fewest", "least_probability")
    MOST_FIELD_NUMBER: _ClassVar[int]
    FEWEST_FIELD_NUMBER: _ClassVar[int]
    LEAST_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    most: int
    fewest: int
    least_probability: float
    def __init__(self, most: _Optional[int] = ..., fewest: _Optional[int] = ..., least_probability: _Optional[float] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "prompt", "sampling", "stop", "max_tokens", "cache_prompt", "logprobs", "resume", "return_prompt", "client", "weight", "priority", "place", "num_kept", "num_discarded", "traceparent", "tracestate", "max_predict_ms", "return_progress", "guessing")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    RETURN_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_FIELD_NUMBER: _ClassVar[int]
    NUM_DISCARDED_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    MAX_PREDICT_MS_FIELD_NUMBER: _ClassVar[int]
    RETURN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    GUESSING_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt: Prompt
    sampling: Sampling
    stop: _containers.RepeatedScalarFieldContainer[str]
    max_tokens: int
    cache_prompt: bool
    logprobs: Logprobs
    resume: Resume
    return_prompt: bool
    client: str
    weight: float
    priority: int
    place: int
    num_kept: int
    num_discarded: int
    traceparent: str
    tracestate: str
    max_predict_ms: int
    return_progress: bool
    guessing: Guessing
    def __init__(self, request_id: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., max_tokens: _Optional[int] = ..., cache_prompt: _Optional[bool] = ..., logprobs: _Optional[_Union[Logprobs, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., return_prompt: _Optional[bool] = ..., client: _Optional[str] = ..., weight: _Optional[float] = ..., priority: _Optional[int] = ..., place: _Optional[int] = ..., num_kept: _Optional[int] = ..., num_discarded: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., max_predict_ms: _Optional[int] = ..., return_progress: _Optional[bool] = ..., guessing: _Optional[_Union[Guessing, _Mapping]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token", "piece", "logprob", "top")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token: int
    piece: bytes
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TopLogprob]
    def __init__(self, token: _Optional[int] = ..., piece: _Optional[bytes] = ..., logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TopLogprob, _Mapping]]] = ...) -> None: ...

class TopLogprob(_message.Message):
    __slots__ = ("token", "piece", "logprob")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token: int
    piece: bytes
    logprob: float
    def __init__(self, token: _Optional[int] = ..., piece: _Optional[bytes] = ..., logprob: _Optional[float] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("num_prompt_tokens", "num_cached_tokens", "seed", "prompt", "place")
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    num_prompt_tokens: int
    num_cached_tokens: int
    seed: int
    prompt: str
    place: int
    def __init__(self, num_prompt_tokens: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., prompt: _Optional[str] = ..., place: _Optional[int] = ...) -> None: ...

class PromptProgress(_message.Message):
    __slots__ = ("num_prompt_tokens", "num_cached_tokens", "num_done", "ms")
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DONE_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_done: int
    ms: float
    def __init__(self, num_prompt_tokens: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., num_done: _Optional[int] = ..., ms: _Optional[float] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "tokens", "num_draws", "logprobs", "memory", "prompt_logprobs")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAWS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    num_draws: int
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    memory: SamplerMemory
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., num_draws: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., memory: _Optional[_Union[SamplerMemory, _Mapping]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("num_cached", "num_prompt", "prompt_ms", "num_predicted", "predicted_ms", "queued_ms", "num_drafted", "num_accepted")
    NUM_CACHED_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTED_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    num_cached: int
    num_prompt: int
    prompt_ms: float
    num_predicted: int
    predicted_ms: float
    queued_ms: float
    num_drafted: int
    num_accepted: int
    def __init__(self, num_cached: _Optional[int] = ..., num_prompt: _Optional[int] = ..., prompt_ms: _Optional[float] = ..., num_predicted: _Optional[int] = ..., predicted_ms: _Optional[float] = ..., queued_ms: _Optional[float] = ..., num_drafted: _Optional[int] = ..., num_accepted: _Optional[int] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "stop_string", "num_prompt_tokens", "num_completion_tokens", "timings", "truncated")
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_STRING_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    stop_string: str
    num_prompt_tokens: int
    num_completion_tokens: int
    timings: Timings
    truncated: bool
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., stop_string: _Optional[str] = ..., num_prompt_tokens: _Optional[int] = ..., num_completion_tokens: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class GenerateReply(_message.Message):
    __slots__ = ("started", "delta", "finished", "progress")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    started: Started
    delta: Delta
    finished: Finished
    progress: PromptProgress
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., progress: _Optional[_Union[PromptProgress, _Mapping]] = ...) -> None: ...

class CallBegin(_message.Message):
    __slots__ = ("call", "request")
    CALL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    call: int
    request: GenerateRequest
    def __init__(self, call: _Optional[int] = ..., request: _Optional[_Union[GenerateRequest, _Mapping]] = ...) -> None: ...

class ServeRequest(_message.Message):
    __slots__ = ("begin", "cancel")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    begin: _containers.RepeatedCompositeFieldContainer[CallBegin]
    cancel: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, begin: _Optional[_Iterable[_Union[CallBegin, _Mapping]]] = ..., cancel: _Optional[_Iterable[int]] = ...) -> None: ...

class Arrived(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("call", "arrived", "reply", "error")
    CALL_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    call: int
    arrived: Arrived
    reply: GenerateReply
    error: ErrorDetail
    def __init__(self, call: _Optional[int] = ..., arrived: _Optional[_Union[Arrived, _Mapping]] = ..., reply: _Optional[_Union[GenerateReply, _Mapping]] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class ServeReply(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[CallReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[CallReply, _Mapping]]] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("content", "add_special", "parse_special")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ADD_SPECIAL_FIELD_NUMBER: _ClassVar[int]
    PARSE_SPECIAL_FIELD_NUMBER: _ClassVar[int]
    content: PromptParts
    add_special: bool
    parse_special: bool
    def __init__(self, content: _Optional[_Union[PromptParts, _Mapping]] = ..., add_special: _Optional[bool] = ..., parse_special: _Optional[bool] = ...) -> None: ...

class TokenizeReply(_message.Message):
    __slots__ = ("tokens", "pieces")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    pieces: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., pieces: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DetokenizeRequest(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class DetokenizeReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ApplyTemplateRequest(_message.Message):
    __slots__ = ("chat",)
    CHAT_FIELD_NUMBER: _ClassVar[int]
    chat: Chat
    def __init__(self, chat: _Optional[_Union[Chat, _Mapping]] = ...) -> None: ...

class ApplyTemplateReply(_message.Message):
    __slots__ = ("prompt",)
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    def __init__(self, prompt: _Optional[str] = ...) -> None: ...

class PrefixNames(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FindPrefixRequest(_message.Message):
    __slots__ = ("prompt", "names")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    names: PrefixNames
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., names: _Optional[_Union[PrefixNames, _Mapping]] = ...) -> None: ...

class FindPrefixReply(_message.Message):
    __slots__ = ("num_held", "names", "num_tokens_each", "num_free")
    NUM_HELD_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_EACH_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_FIELD_NUMBER: _ClassVar[int]
    num_held: int
    names: PrefixNames
    num_tokens_each: int
    num_free: int
    def __init__(self, num_held: _Optional[int] = ..., names: _Optional[_Union[PrefixNames, _Mapping]] = ..., num_tokens_each: _Optional[int] = ..., num_free: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model_path", "architecture", "file_type", "num_parameters", "size_bytes", "vocab_type", "vocab_size", "embedding_length", "context_length", "trained_context_length", "num_parallel", "chat_template", "bos_token", "eos_token", "num_threads", "instruction_set", "name", "identity", "speculative", "shifts_context", "vocabulary")
    MODEL_PATH_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    FILE_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VOCAB_TYPE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TRAINED_CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    BOS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_FIELD_NUMBER: _ClassVar[int]
    SHIFTS_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    model_path: str
    architecture: str
    file_type: str
    num_parameters: int
    size_bytes: int
    vocab_type: int
    vocab_size: int
    embedding_length: int
    context_length: int
    trained_context_length: int
    num_parallel: int
    chat_template: str
    bos_token: str
    eos_token: str
    num_threads: int
    instruction_set: str
    name: str
    identity: bytes
    speculative: bool
    shifts_context: bool
    vocabulary: bytes
    def __init__(self, model_path: _Optional[str] = ..., architecture: _Optional[str] = ..., file_type: _Optional[str] = ..., num_parameters: _Optional[int] = ..., size_bytes: _Optional[int] = ..., vocab_type: _Optional[int] = ..., vocab_size: _Optional[int] = ..., embedding_length: _Optional[int] = ..., context_length: _Optional[int] = ..., trained_context_length: _Optional[int] = ..., num_parallel: _Optional[int] = ..., chat_template: _Optional[str] = ..., bos_token: _Optional[str] = ..., eos_token: _Optional[str] = ..., num_threads: _Optional[int] = ..., instruction_set: _Optional[str] = ..., name: _Optional[str] = ..., identity: _Optional[bytes] = ..., speculative: _Optional[bool] = ..., shifts_context: _Optional[bool] = ..., vocabulary: _Optional[bytes] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsReply(_message.Message):
    __slots__ = ("num_steps", "num_running", "num_waiting", "num_blocks", "num_free_blocks", "num_cached_blocks", "prompt_tokens_total", "cached_tokens_total", "predicted_tokens_total", "prompt_seconds_total", "predicted_seconds_total", "resident_bytes", "busy", "step_seconds_total", "step_bounds", "step_counts", "expected_wait", "advanced_sequences_total", "longest_sequence", "draft_rounds_total", "drafted_tokens_total", "accepted_tokens_total", "proportional_bytes", "num_prefix_blocks", "num_prefixes", "prefix_digest")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SECONDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_SECONDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STEP_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    ADVANCED_SEQUENCES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LONGEST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DRAFT_ROUNDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROPORTIONAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFIX_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    PREFIX_DIGEST_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    prompt_tokens_total: int
    cached_tokens_total: int
    predicted_tokens_total: int
    prompt_seconds_total: float
    predicted_seconds_total: float
    resident_bytes: int
    busy: bool
    step_seconds_total: float
    step_bounds: _containers.RepeatedScalarFieldContainer[float]
    step_counts: _containers.RepeatedScalarFieldContainer[int]
    expected_wait: float
    advanced_sequences_total: int
    longest_sequence: int
    draft_rounds_total: int
    drafted_tokens_total: int
    accepted_tokens_total: int
    proportional_bytes: int
    num_prefix_blocks: int
    num_prefixes: int
    prefix_digest: int
    def __init__(self, num_steps: _Optional[int] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_free_blocks: _Optional[int] = ..., num_cached_blocks: _Optional[int] = ..., prompt_tokens_total: _Optional[int] = ..., cached_tokens_total: _Optional[int] = ..., predicted_tokens_total: _Optional[int] = ..., prompt_seconds_total: _Optional[float] = ..., predicted_seconds_total: _Optional[float] = ..., resident_bytes: _Optional[int] = ..., busy: _Optional[bool] = ..., step_seconds_total: _Optional[float] = ..., step_bounds: _Optional[_Iterable[float]] = ..., step_counts: _Optional[_Iterable[int]] = ..., expected_wait: _Optional[float] = ..., advanced_sequences_total: _Optional[int] = ..., longest_sequence: _Optional[int] = ..., draft_rounds_total: _Optional[int] = ..., drafted_tokens_total: _Optional[int] = ..., accepted_tokens_total: _Optional[int] = ..., proportional_bytes: _Optional[int] = ..., num_prefix_blocks: _Optional[int] = ..., num_prefixes: _Optional[int] = ..., prefix_digest: _Optional[int] = ...) -> None: ...

class PlacesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Place(_message.Message):
    __slots__ = ("number", "is_running", "task", "num_prompt_tokens", "num_prompt_computed", "num_cached", "num_predicted", "num_remaining", "has_new_line", "sampling", "max_tokens")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    IS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_COMPUTED_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_FIELD_NUMBER: _ClassVar[int]
    NUM_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    NUM_REMAINING_FIELD_NUMBER: _ClassVar[int]
    HAS_NEW_LINE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    number: int
    is_running: bool
    task: int
    num_prompt_tokens: int
    num_prompt_computed: int
    num_cached: int
    num_predicted: int
    num_remaining: int
    has_new_line: bool
    sampling: Sampling
    max_tokens: int
    def __init__(self, number: _Optional[int] = ..., is_running: _Optional[bool] = ..., task: _Optional[int] = ..., num_prompt_tokens: _Optional[int] = ..., num_prompt_computed: _Optional[int] = ..., num_cached: _Optional[int] = ..., num_predicted: _Optional[int] = ..., num_remaining: _Optional[int] = ..., has_new_line: _Optional[bool] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class PlacesReply(_message.Message):
    __slots__ = ("places",)
    PLACES_FIELD_NUMBER: _ClassVar[int]
    places: _containers.RepeatedCompositeFieldContainer[Place]
    def __init__(self, places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ...) -> None: ...

class ChangePlaceRequest(_message.Message):
    __slots__ = ("number", "action", "filename")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    number: int
    action: PlaceAction
    filename: str
    def __init__(self, number: _Optional[int] = ..., action: _Optional[_Union[PlaceAction, str]] = ..., filename: _Optional[str] = ...) -> None: ...

class ChangePlaceReply(_message.Message):
    __slots__ = ("num_tokens", "num_bytes")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    num_bytes: int
    def __init__(self, num_tokens: _Optional[int] = ..., num_bytes: _Optional[int] = ...) -> None: ...
