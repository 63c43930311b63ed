"""The worker's command line, in llama-server's words, as a WorkerConfig.

worker/program.py reads it. Invariant: 0, or no flag, leaves a choice to the worker or to the model file; only
--spec-draft-n-max means 0.
"""

import argparse
from collections.abc import MutableMapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from worker.config import DraftConfig, RopeConfig, WorkerConfig
from worker.cores.lease import LEAST_WEIGHT, MOST_WEIGHT, host_path
from worker.errors import WorkerError
from worker.rpc.access import Access, read_secret, read_tls
from worker.values import MOST_THREADS, MOST_WHOLE, Real, Whole

TOKEN_VARIABLE = "CORRAL_WORKER_TOKEN"  # noqa: S105 (a name)
_BATCH, _UBATCH = 2048, 512
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(WorkerConfig)}
_TINY = 1e-6
_ROPE_SCALINGS = ("none", "linear", "yarn")
_NO_DRAFTS, _LOOKUP, _MODEL = SPEC_TYPES = ("none", "ngram-simple", "draft-simple")
_MOST_DRAFTS = 64
_NUMA = ("distribute", "isolate", "numactl")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="corral worker", description="Serves one model over gRPC.")
    _add_process(made)
    _add_capacity(made)
    _add_rope(made)
    _add_memory(made)
    _add_prefixes(made)
    _add_speculation(made)
    return made


def access(arguments: argparse.Namespace, environment: MutableMapping[str, str]) -> Access:
    """Who may call, as the command line and the variable say, which is taken away. Raises WorkerError, OSError."""
    token = environment.pop(TOKEN_VARIABLE, "")
    if arguments.token_file is not None:
        token = read_secret(arguments.token_file).decode().strip()
        if not token:
            raise WorkerError(f"{arguments.token_file}: no token in it")
    tls = read_tls(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
    return Access(token or None, tls, open_to_all=arguments.insecure_no_auth)


def worker_config(arguments: argparse.Namespace) -> WorkerConfig:
    guesses = arguments.spec_draft_n_max > 0 and arguments.spec_type != {_NO_DRAFTS}
    return WorkerConfig(
        model_path=arguments.model,
        listen=arguments.listen,
        context_length=arguments.ctx_size,
        num_threads=arguments.threads,
        num_batch_threads=arguments.threads_batch,
        max_running=arguments.parallel,
        max_waiting=arguments.max_waiting,
        step_tokens=min(arguments.batch_size or _BATCH, arguments.ubatch_size or _UBATCH),
        kv_type_k=arguments.cache_type_k,
        kv_type_v=arguments.cache_type_v,
        rope=RopeConfig(
            scaling=arguments.rope_scaling,
            base=arguments.rope_freq_base,
            scale=arguments.rope_freq_scale,
            original_context=arguments.yarn_orig_ctx,
            extrapolation=arguments.yarn_ext_factor,
            attention_factor=arguments.yarn_attn_factor,
            beta_fast=arguments.yarn_beta_fast,
            beta_slow=arguments.yarn_beta_slow,
        ),
        maps_weights=not arguments.no_mmap,
        locks_weights=arguments.mlock,
        checks_tensors=arguments.check_tensors,
        numa=arguments.numa,
        core_lease=_core_lease(arguments.core_lease),
        core_weight=arguments.core_weight,
        step_target_ms=arguments.step_target_ms,
        max_drafts=arguments.spec_draft_n_max if guesses else 0,
        looks_up=guesses and _LOOKUP in arguments.spec_type,
        draft=_draft(arguments) if guesses and arguments.model_draft and _MODEL in arguments.spec_type else None,
        context_shift=arguments.context_shift,
        chat_template=arguments.chat_template,
        chat_template_file=arguments.chat_template_file,
        slot_save_path=arguments.slot_save_path,
        kv_store=arguments.kv_store,
        kv_store_mib=arguments.kv_store_size,
    )


def _draft(arguments: argparse.Namespace) -> DraftConfig:
    return DraftConfig(
        model_path=arguments.model_draft,
        context_length=arguments.ctx_size_draft,
        num_threads=arguments.threads_draft,
        num_batch_threads=arguments.threads_batch_draft,
        kv_type_k=arguments.cache_type_k_draft,
        kv_type_v=arguments.cache_type_v_draft,
        fewest=arguments.spec_draft_n_min,
        least_probability=arguments.spec_draft_p_min,
    )


def _core_lease(text: str) -> Path | None:
    return None if text == "off" else host_path() if text == "host" else Path(text)


def _add_process(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("-m", "--model", type=Path, required=True, metavar="FILE", help="a GGUF file, or the first part of a split one")
    place = made.add_mutually_exclusive_group(required=True)
    place.add_argument("--listen", default="", metavar="unix:PATH|HOST:PORT")
    place.add_argument("--nursery", type=int, metavar="N", help="fork workers that listen, as this socket asks")
    add("--token-file", type=Path, metavar="FILE", help=f"what callers must present; also {TOKEN_VARIABLE}")
    add("--tls-cert", type=Path, metavar="FILE", help="listen with TLS: the certificate and its chain, PEM")
    add("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    add("--tls-client-ca", type=Path, metavar="FILE", help="callers must present a certificate signed by this one, PEM")
    add("--health-listen", metavar="HOST:PORT", help="tell one's health there too, without TLS: for probes of pods")
    add("--insecure-no-auth", action="store_true", help="listen beyond this host though callers need neither")
    add("--grace", type=Real(0), default=60.0, metavar="SECONDS", help="for open requests to finish after SIGTERM")
    add("--parent-fd", type=int, metavar="N", help="end when this pipe does")
    add("--core-lease", default="host", metavar="FILE|host|off", help="workers with the same file take turns computing")
    add("--core-weight", type=Real(LEAST_WEIGHT, MOST_WEIGHT), default=1.0, metavar="W",
        help="share of the cores relative to other workers'")  # fmt: skip


def _add_capacity(made: argparse.ArgumentParser) -> None:
    def add(*names: str, default: int = 0, most: int = MOST_WHOLE, help: str) -> None:
        made.add_argument(*names, type=Whole(most), default=default, metavar="N", help=help)

    add("-c", "--ctx-size", help="positions shared by all sequences; 0: what the model was trained for")
    add("-t", "--threads", most=MOST_THREADS, help="for generating; 0: one per usable core")
    add("-tb", "--threads-batch", most=MOST_THREADS, help="for steps that read prompts; 0: as --threads")
    add("-np", "--parallel", help="sequences computed at once; 0: chosen by the worker")
    add("-b", "--batch-size", default=_BATCH, help="tokens computed in one step: the smaller of this and the next")
    add("-ub", "--ubatch-size", default=_UBATCH, help="but at least one for each sequence computed at once")
    add("--max-waiting", default=_DEFAULTS["max_waiting"], help="requests in line before more are refused")
    add("--step-target-ms", default=_DEFAULTS["step_target_ms"], help="for a step that reads prompts, at most")


def _add_rope(made: argparse.ArgumentParser) -> None:
    def add(name: str, least: float, *, dest: str | None = None, inverse: bool = False, help: str) -> None:
        kind = Real(least, inverse=inverse)
        made.add_argument(name, type=kind, dest=dest or name[2:].replace("-", "_"), metavar="X", help=help)

    made.add_argument("--rope-scaling", choices=_ROPE_SCALINGS, help="how positions are stretched")
    add("--rope-scale", _TINY, dest="rope_freq_scale", inverse=True, help="room for X times the context")
    add("--rope-freq-scale", _TINY, help="the same as --rope-scale 1/X")
    add("--rope-freq-base", 2, help="base of the frequencies")
    made.add_argument("--yarn-orig-ctx", type=Whole(), metavar="N", help="context before stretching")
    add("--yarn-ext-factor", 0, help="0: stretch all frequencies alike; 1: leave the high ones alone")
    add("--yarn-attn-factor", 0, help="magnitude, where nothing is extrapolated")
    add("--yarn-beta-fast", 0, help="turns from which a frequency is left alone (32)")
    add("--yarn-beta-slow", 0, help="turns up to which a frequency is stretched (1)")


def _add_memory(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("-ctk", "--cache-type-k", default=_DEFAULTS["kv_type_k"], metavar="TYPE", help="of the keys in the cache")
    add("-ctv", "--cache-type-v", default=_DEFAULTS["kv_type_v"], metavar="TYPE", help="of the values in the cache")
    add("--no-mmap", action="store_true", help="read the weights into memory of the worker's own")
    add("--mlock", action="store_true", help="keep the weights in memory, whatever happens")
    add("--check-tensors", action="store_true", help="refuse a file with a NaN or an infinity among its weights")
    add("--numa", choices=_NUMA, default="", help="where threads run on a machine of several nodes")


def _add_prefixes(made: argparse.ArgumentParser) -> None:
    add, most = made.add_argument, Whole()
    add("--chat-template", default="", metavar="TEXT", help="a Jinja template instead of the model file's")
    add("--chat-template-file", type=Path, metavar="FILE", help="the same, from a file")
    add("--context-shift", action="store_true", help="make room in a full context instead of ending the answer")
    add("--slot-save-path", type=Path, metavar="DIR", help="where clients may save computed prefixes")
    add("--kv-store", type=Path, metavar="DIR", help="keep computed prefixes here over a restart")
    add("--kv-store-size", type=most, default=_DEFAULTS["kv_store_mib"], metavar="MIB", help="that it may take")


def _add_speculation(made: argparse.ArgumentParser) -> None:
    def whole(*names: str, default: int = 0, most: int, help: str) -> None:
        made.add_argument(*names, type=Whole(most), default=default, metavar="N", help=help)

    add, few = made.add_argument, _DEFAULTS["max_drafts"]
    add("--spec-type", type=_spec_types, default={_LOOKUP, _MODEL}, metavar="TYPE,...",
        help=f"how tokens are guessed ahead: {', '.join(SPEC_TYPES)}; all ways there are if not given")  # fmt: skip
    whole("--spec-draft-n-max", default=few, most=_MOST_DRAFTS, help=f"tokens guessed ahead at once ({few}); 0: none")
    whole("--spec-draft-n-min", most=_MOST_DRAFTS, help="fewer guesses of a model than this are not tried")
    add("--spec-draft-p-min", type=Real(0, 1), default=0.0, metavar="P", help="of a guess of a model, at least")
    add("-md", "--model-draft", type=Path, metavar="FILE", help="a small model of the same vocabulary that guesses")
    whole("-cd", "--ctx-size-draft", most=MOST_WHOLE, help="its positions, shared by all sequences; 0: as --ctx-size")
    whole("-td", "--threads-draft", most=MOST_THREADS, help="its threads; 0: as --threads")
    whole("-tbd", "--threads-batch-draft", most=MOST_THREADS, help="for prompts; 0: as --threads-batch")
    add("-ctkd", "--cache-type-k-draft", default=_DEFAULTS["kv_type_k"], metavar="TYPE", help="as --cache-type-k")
    add("-ctvd", "--cache-type-v-draft", default=_DEFAULTS["kv_type_v"], metavar="TYPE", help="as --cache-type-v")


def _spec_types(text: str) -> set[str]:
    types = set(text.split(","))
    if unknown := types.difference(SPEC_TYPES):
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(SPEC_TYPES)}")
    return types
