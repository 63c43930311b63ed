"""The settings that are handed on to workers: how each is checked, and how a worker's command line says it.

Called by settings.py. Invariant: a worker gets no value that its own command line would refuse, and nothing about what
was left to it.
"""

from collections.abc import Callable, Mapping

from router.errors import CommandError
from router.options.flags import EXIT_USAGE, Given
from router.paths import BadPath, path_of

# (what to call the flag, its value) -> the value for the worker; empty: the worker's own choice
Check = Callable[[str, str], str]

_MOST = (1 << 24) - 1
_TINY, _HUGE = 1e-6, 1e12
_MOST_THREADS = 512
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_OTHER_CACHE_TYPES = ("q4_1", "iq4_nl", "q5_0", "q5_1")  # llama-server has them
SPEC_TYPES = ("none", "ngram-simple", "draft-simple")
_OTHER_SPEC_TYPES = (
    *("draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark"),
    *("ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
)
_MOST_DRAFTS = 64
_LOAD_MODES: Mapping[str, tuple[str, ...]] = {
    "auto": (),
    "mmap": (),
    "none": ("--no-mmap",),
    "dio": ("--no-mmap",),
    "mlock": ("--no-mmap", "--mlock"),
    "mmap+mlock": ("--mlock",),
}


def worker_arguments(given: Given) -> tuple[str, ...]:
    """What every worker is started with. Raises CommandError."""
    arguments: list[str] = []
    for key, check in _CHECKS.items():
        text = given.last(key)
        if text is not None and (value := check(given.called(key), text)):
            arguments += ["--" + key.replace("_", "-"), value]
    return (*arguments, *_cache_types(given), *_speculation(given), *_load_mode(given), *_switches(given))


def notes(given: Given) -> list[str]:
    """One line for each value that is understood, but cannot be had."""
    types = [
        f"no effect: {flag} {kv_type} (a worker knows {', '.join(CACHE_TYPES)})"
        for flag, kv_type in _given_cache_types(given).items()
        if kv_type in _OTHER_CACHE_TYPES
    ]
    guesses = [
        f"no effect: --spec-type {spec_type} (a worker knows {', '.join(SPEC_TYPES)})"
        for spec_type in _given_spec_types(given)
        if spec_type in _OTHER_SPEC_TYPES
    ]
    if "draft-simple" in _given_spec_types(given) and not given.last("model_draft"):
        guesses.append("no effect: --spec-type draft-simple (it needs --model-draft)")
    return [*types, *guesses]


def _whole(most: int, *, zero: str = "") -> Check:
    """-1 leaves the choice to the worker; so does 0 where it is not handed on as `zero`."""

    def check(flag: str, text: str) -> str:
        try:
            value = int(text)
        except ValueError:
            raise CommandError(f"{flag} must be a whole number, but is '{text}'", EXIT_USAGE) from None
        if not -1 <= value <= most:
            raise CommandError(f"{flag} must be between -1 and {most}, but is {value}", EXIT_USAGE)
        return str(value) if value > 0 else zero if value == 0 else ""

    return check


def _real(least: float, automatic: Callable[[float], bool] = lambda value: False) -> Check:
    """A number, unless it is one that leaves the choice to the model file."""

    def check(flag: str, text: str) -> str:
        try:
            value = float(text)
        except ValueError:
            raise CommandError(f"{flag} must be a number, but is '{text}'", EXIT_USAGE) from None
        if automatic(value):
            return ""
        if not least <= value < _HUGE:
            raise CommandError(f"{flag} must be at least {least:g}, but is {text}", EXIT_USAGE)
        return repr(value)

    return check


def _word(*words: str) -> Check:
    def check(flag: str, text: str) -> str:
        if text not in words:
            raise CommandError(f"{flag} must be one of {', '.join(words)}, but is '{text}'", EXIT_USAGE)
        return text

    return check


def _probability(flag: str, text: str) -> str:
    value = _real(0)(flag, text)
    if float(value) > 1:
        raise CommandError(f"{flag} must be between 0 and 1, but is {text}", EXIT_USAGE)
    return value


def _place(flag: str, text: str) -> str:
    """Workers run in the same folder, but a path in a command line should not depend on it. No text is no path."""
    try:
        return str(path_of(text).absolute()) if text else ""
    except BadPath as bad:
        raise CommandError(f"{flag}: {bad}", EXIT_USAGE) from None


def _template(flag: str, text: str) -> str:
    """llama-server's names for templates mean nothing here."""
    if text and "{{" not in text and "{%" not in text:
        raise CommandError(
            f"{flag} '{text[:40]}' is no Jinja template, and templates have no names here; "
            "leave it out for the one in the model's file, or give --chat-template-file FILE",
            EXIT_USAGE,
        )
    return text


def _not_positive(value: float) -> bool:
    return value <= 0


def _negative(value: float) -> bool:
    return value < 0


_CHECKS: Mapping[str, Check] = {
    "threads": _whole(_MOST_THREADS),
    "threads_batch": _whole(_MOST_THREADS),
    "ctx_size": _whole(_MOST),
    "parallel": _whole(_MOST),
    "batch_size": _whole(_MOST),
    "ubatch_size": _whole(_MOST),
    "step_target_ms": _whole(_MOST),
    "spec_draft_n_max": _whole(_MOST_DRAFTS, zero="0"),
    "spec_draft_n_min": _whole(_MOST_DRAFTS),
    "spec_draft_p_min": _probability,
    "model_draft": _place,
    "ctx_size_draft": _whole(_MOST),
    "threads_draft": _whole(_MOST_THREADS),
    "threads_batch_draft": _whole(_MOST_THREADS),
    "chat_template": _template,
    "chat_template_file": _place,
    "slot_save_path": _place,
    "kv_store": _place,
    "kv_store_size": _whole(_MOST),
    "rope_scaling": _word("none", "linear", "yarn"),
    "rope_scale": _real(_TINY),
    "rope_freq_scale": _real(_TINY, _not_positive),
    "rope_freq_base": _real(2, _not_positive),
    "yarn_orig_ctx": _whole(_MOST),
    "yarn_ext_factor": _real(0, _negative),
    "yarn_attn_factor": _real(0, _negative),
    "yarn_beta_slow": _real(0, _negative),
    "yarn_beta_fast": _real(0, _negative),
}


def _given_cache_types(given: Given) -> dict[str, str]:
    """By flag."""
    types = {f"--cache-type-{side}": given.last(f"cache_type_{side}") for side in "kv"}
    if given.on("memory_f32"):
        types = dict.fromkeys(types, "f32")
    types |= {f"--cache-type-{side}-draft": given.last(f"cache_type_{side}_draft") for side in "kv"}
    return {flag: kv_type for flag, kv_type in types.items() if kv_type is not None}


def _cache_types(given: Given) -> list[str]:
    arguments = []
    for flag, kv_type in _given_cache_types(given).items():
        if kv_type in CACHE_TYPES:
            arguments += [flag, kv_type]
        elif kv_type not in _OTHER_CACHE_TYPES:
            called = given.called(flag[2:].replace("-", "_"))
            raise CommandError(f"{called} must be one of {', '.join(CACHE_TYPES)}, but is '{kv_type}'", EXIT_USAGE)
    return arguments


def _given_spec_types(given: Given) -> list[str]:
    return (given.last("spec_type") or "").split(",")


def _speculation(given: Given) -> list[str]:
    """The types in a list that a worker knows."""
    types = list(filter(None, _given_spec_types(given)))
    if unknown := [spec_type for spec_type in types if spec_type not in (*SPEC_TYPES, *_OTHER_SPEC_TYPES)]:
        known = ", ".join(SPEC_TYPES)
        raise CommandError(f"{given.called('spec_type')} must be one of {known}, but is '{unknown[0]}'", EXIT_USAGE)
    known_types = [spec_type for spec_type in types if spec_type in SPEC_TYPES]
    return ["--spec-type", ",".join(known_types)] if known_types else []


def _load_mode(given: Given) -> list[str]:
    """--load-mode; its older spellings --mlock and --no-mmap add to it."""
    mode = given.last("load_mode") or "auto"
    if mode not in _LOAD_MODES:
        known = ", ".join(_LOAD_MODES)
        raise CommandError(f"{given.called('load_mode')} must be one of {known}, but is '{mode}'", EXIT_USAGE)
    wanted = {"--no-mmap": not given.on("mmap", True), "--mlock": given.on("mlock")}
    return [flag for flag, on in wanted.items() if on or flag in _LOAD_MODES[mode]]


def _switches(given: Given) -> list[str]:
    arguments = ["--check-tensors"] if given.on("check_tensors") else []
    arguments += ["--context-shift"] if given.on("context_shift") else []
    if (numa := given.last("numa")) not in (None, "", "off"):
        arguments += ["--numa", "distribute" if numa == "on" else str(numa)]
    return arguments
