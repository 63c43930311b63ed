"""llama-server's flags, and ours, as one table: what each is called, what it takes, and what it means here.

Read by flags.py. Both of llama-server's spellings are in it, the older and today's. A flag without an effect here has a
note that says why; an empty note means that things are always so. Invariant: no name stands in two rows.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Takes(enum.Enum):
    NOTHING = 0
    VALUE = 1
    PAIR = 2
    WORD = 3  # one of `words`, or nothing


class Effect(enum.Enum):
    SERVE = "serve"  # a setting of the gateway
    WORKER = "worker"  # handed on to every worker
    REQUEST = "request"  # a default for what a request does not say
    NONE = "none"  # understood, without effect


@dataclass(frozen=True, slots=True)
class Flag:
    """One row: `key` is what settings.py asks for; `off` are the names that mean the opposite."""

    key: str
    names: tuple[str, ...]
    effect: Effect
    takes: Takes = Takes.VALUE
    off: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    variables: tuple[str, ...] = ()  # environment
    metavar: str = ""
    help: str = ""
    note: str = ""
    off_note: str = ""


ON_OFF = frozenset({"on", "off", "auto", "true", "false", "0", "1", "enabled", "disabled"})


def _names(spec: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """ "-x --name ! --no-name $ VARIABLE": names, names that mean the opposite, environment variables."""
    names, _, variables = spec.partition("$")
    on, _, off = names.partition("!")
    return tuple(on.split()), tuple(off.split()), tuple(variables.split())


def _key(names: tuple[str, ...]) -> str:
    return names[-1].lstrip("-").replace("-", "_")


def _active(effect: Effect, rows: str) -> Iterator[Flag]:
    """Rows with an effect, one a line: names : value (empty for a switch) : help."""
    for row in rows.strip().splitlines():
        spec, metavar, text = (part.strip() for part in row.split(" : ", 2))
        names, off, variables = _names(spec)
        takes = Takes.VALUE if metavar else Takes.NOTHING
        yield Flag(_key(names), names, effect, takes, off, variables=variables, metavar=metavar, help=text)


def _inert(note: str, rows: str, takes: Takes, off_note: str | None = None) -> Iterator[Flag]:
    """Rows without effect, one a line."""
    for row in rows.strip().splitlines():
        names, off, variables = _names(row)
        yield Flag(
            key=_key(names),
            names=names,
            effect=Effect.NONE,
            takes=takes,
            off=off,
            words=ON_OFF if takes is Takes.WORD else frozenset(),
            variables=variables,
            note=note,
            off_note=note if off_note is None else off_note,
        )


_SERVE = """
    --config $ CORRAL_CONFIG : FILE : settings, models, aliases, keys (./corral.toml, if it is there)
    --models-dir $ LLAMA_ARG_MODELS_DIR : DIR : serve every GGUF file in this folder, each loaded by its first request
    --models-preset $ LLAMA_ARG_MODELS_PRESET : FILE : models in llama-server's INI format
    --models-max $ LLAMA_ARG_MODELS_MAX : N : models loaded at the same time (0: any number)
    --models-memory $ CORRAL_MODELS_MEMORY : SIZE : memory they may take together, as 12G (9 tenths of all; 0: no limit)
    --models-autoload ! --no-models-autoload $ LLAMA_ARG_MODELS_AUTOLOAD :  : requests load their model (the default)
    --sleep-idle-seconds : SECONDS : unload a model after this time without a request (-1: never)
    -m --model $ LLAMA_ARG_MODEL LLAMA_MODEL_PATH : FILE : a GGUF file to serve; give it again for more
    -hf -hfr --hf-repo $ LLAMA_ARG_HF_REPO : USER/REPO[:QUANT] : a model to fetch first, as `corral pull hf:...`
    -mu --model-url $ LLAMA_ARG_MODEL_URL : URL : a model to fetch first, as `corral pull URL`
    -a --alias $ LLAMA_ARG_ALIAS : NAME=FILE : a name for a model; with one model also NAME[,NAME...]
    --host $ LLAMA_ARG_HOST : HOST[,...] : addresses to listen on (127.0.0.1), or paths ending in .sock
    --port $ LLAMA_ARG_PORT : PORT : port to listen on (8080); 0 takes a free one
    --api-key $ LLAMA_API_KEY : KEY[,...] : keys that may call (visible in ps: better a file)
    --api-key-file $ LLAMA_ARG_API_KEY_FILE : FILE : keys that may call, one a line; # begins a comment
    --keys $ CORRAL_KEYS : FILE : keys with rights and limits, as `corral keys` keeps them
    --allowed-hosts : HOST[,...] : names this server has, beside localhost and addresses
    --insecure-no-auth :  : listen beyond loopback without any key
    --cors :  : let web pages of every origin call
    --cors-origin --cors-origins $ LLAMA_ARG_CORS_ORIGINS : ORIGIN[,...] : let web pages of these origins call
    --cors-methods $ LLAMA_ARG_CORS_METHODS : METHOD[,...] : methods they may use
    --cors-headers $ LLAMA_ARG_CORS_HEADERS : HEADER[,...] : headers they may send
    --cors-credentials ! --no-cors-credentials $ LLAMA_ARG_CORS_CREDENTIALS :  : let listed origins send credentials
    --ssl-key-file $ LLAMA_ARG_SSL_KEY_FILE : FILE : private key, to serve https
    --ssl-cert-file $ LLAMA_ARG_SSL_CERT_FILE : FILE : certificate, to serve https
    --metrics $ LLAMA_ARG_ENDPOINT_METRICS :  : serve GET /metrics
    --slots ! --no-slots $ LLAMA_ARG_ENDPOINT_SLOTS :  : serve GET /slots (the default)
    --body-limit : BYTES : largest request body (16777216)
    --lame-duck : SECONDS : after SIGTERM: from /ready saying 503 to closing the port (1)
    --drain-timeout : SECONDS : after that: what open requests get to finish (60)
    --listen-when-ready :  : refuse connections until the models are ready, for proxies that do not ask /ready
    --redis : URL : share keys' limits with other gateways; while it is away, limits hold for each gateway alone
    --core-lease : auto|on|off : models take turns on the cores (auto); on: with other gateways' models too
    --core-weight : NAME=WEIGHT : a model's share of the cores while others want them too (1)
    --worker-command : COMMAND : what starts every worker anew, for running it under another program
    -v --log-verbose --verbose :  : log everything
    -lv --log-verbosity --verbosity $ LLAMA_ARG_LOG_VERBOSITY : N : 1 errors, 2 warnings, 3 more (default), 4 all
    --log-disable :  : no log
    --log-file $ LLAMA_ARG_LOG_FILE : FILE : log to a file instead of standard error
    --log-format : text|json : a line of text, or a JSON object, per event
    --log-jsonl ! --no-log-jsonl $ LLAMA_ARG_LOG_JSONL :  : the same as --log-format json
"""

_WORKER = """
    -t --threads $ LLAMA_ARG_THREADS : N : threads of every worker (one per core)
    -tb --threads-batch : N : threads for steps that read prompts (as --threads)
    -c --ctx-size $ LLAMA_ARG_CTX_SIZE : N : context length in tokens (what the model was trained for)
    -np --parallel $ LLAMA_ARG_N_PARALLEL : N : sequences computed at once
    -b --batch-size $ LLAMA_ARG_BATCH : N : tokens computed in one step, if -ub is not smaller (2048)
    -ub --ubatch-size $ LLAMA_ARG_UBATCH : N : the same (512), but at least one for each of --parallel
    --step-target-ms : MS : what a step that reads prompts should take, at most (50)
    --spec-type $ LLAMA_ARG_SPEC_TYPE : none|ngram-simple : guess next tokens by lookup in the text (ngram-simple)
    --draft --draft-n --draft-max --spec-draft-n-max $ LLAMA_ARG_DRAFT_MAX LLAMA_ARG_SPEC_DRAFT_N_MAX : N : how many (3)
    --context-shift ! --no-context-shift $ LLAMA_ARG_CONTEXT_SHIFT :  : make room in a full context, do not end there
    --slot-save-path : DIR : where POST /slots/N may save computed prefixes
    --kv-store : DIR : keep computed prefixes here over a restart
    --kv-store-size : MIB : that they may take, for each model (4096)
    -ctk --cache-type-k $ LLAMA_ARG_CACHE_TYPE_K : TYPE : type of cached keys (f16)
    -ctv --cache-type-v $ LLAMA_ARG_CACHE_TYPE_V : TYPE : type of cached values (f16)
    --memory-f32 :  : the same as -ctk f32 -ctv f32
    --rope-scaling $ LLAMA_ARG_ROPE_SCALING_TYPE : none|linear|yarn : how positions are stretched (as the file says)
    --rope-scale $ LLAMA_ARG_ROPE_SCALE : X : room for X times the context
    --rope-freq-base $ LLAMA_ARG_ROPE_FREQ_BASE : X : base of the rotary embedding (0: as the file says)
    --rope-freq-scale $ LLAMA_ARG_ROPE_FREQ_SCALE : X : the same as --rope-scale 1/X (0: as the file says)
    --yarn-orig-ctx $ LLAMA_ARG_YARN_ORIG_CTX : N : context before stretching (0: as the file says)
    --yarn-ext-factor $ LLAMA_ARG_YARN_EXT_FACTOR : X : 0 stretches all frequencies alike, 1 leaves high ones alone
    --yarn-attn-factor $ LLAMA_ARG_YARN_ATTN_FACTOR : X : magnitude; with an ext-factor it follows from the scale
    --yarn-beta-slow $ LLAMA_ARG_YARN_BETA_SLOW : X : turns up to which a frequency is stretched (1)
    --yarn-beta-fast $ LLAMA_ARG_YARN_BETA_FAST : X : turns from which a frequency is left alone (32)
    -lm --load-mode $ LLAMA_ARG_LOAD_MODE : MODE : auto, none, mmap, mlock, mmap+mlock, dio: as --mmap and --mlock say
    --mmap ! --no-mmap $ LLAMA_ARG_MMAP :  : map the packed weights (the default), shared by all replicas
    --mlock $ LLAMA_ARG_MLOCK :  : keep the weights in memory, whatever happens
    --check-tensors :  : refuse a file with a NaN or an infinity among its weights
"""

_SAMPLING = """
    --samplers : NAME;... : samplers in the order in which they act (penalties;dry;top_n_sigma;top_k;typ_p;...)
    --sampler-seq --sampling-seq : LETTERS : the same, a letter for each (edskypmxt)
    -s --seed : N : seed of requests that have none; -1 draws one (-1)
    --ignore-eos :  : go on behind the end of an answer
    --temp --temperature $ LLAMA_ARG_TEMPERATURE : N : temperature (0.8)
    --top-k $ LLAMA_ARG_TOP_K : N : choose among the N most likely tokens (40); 0 is off
    --top-p $ LLAMA_ARG_TOP_P : P : ... that together have the probability P (0.95); 1 is off
    --min-p $ LLAMA_ARG_MIN_P : P : ... that are P times as likely as the first (0.05); 0 is off
    --top-nsigma --top-n-sigma : N : ... within N standard deviations of the first (-1); 0 or less is off
    --xtc-probability : P : drop the likelier of several good tokens this often (0)
    --xtc-threshold : P : from this probability on a token is a good one (0.1)
    --typical --typical-p : P : keep tokens as surprising as usual (1); 1 is off
    --repeat-last-n : N : tokens that penalties look back at (64); -1 is all
    --repeat-penalty $ LLAMA_ARG_REPEAT_PENALTY : N : factor against tokens that were there (1); 1 is off
    --presence-penalty $ LLAMA_ARG_PRESENCE_PENALTY : N : what they lose beside (0)
    --frequency-penalty $ LLAMA_ARG_FREQUENCY_PENALTY : N : what they lose for each time (0)
    --dry-multiplier : N : strength of DRY, against repeated sequences (0); 0 is off
    --dry-base : N : its growth with their length (1.75)
    --dry-allowed-length : N : tokens that may be repeated (2)
    --dry-penalty-last-n : N : tokens that DRY looks back at (64); -1 is all
    --dry-sequence-breaker : TEXT : where a sequence begins anew; again for more, none for none
    --adaptive-target : P : with the sampler adaptive_p: prefer tokens this likely (-1); negative is off
    --adaptive-decay : P : how slowly it forgets, 0 to 0.99 (0.9)
    --dynatemp-range : N : let the temperature follow the entropy, this far either way (0); 0 is off
    --dynatemp-exp : N : exponent of that (1)
    --mirostat : 0|1|2 : Mirostat of that version instead of other samplers (0); 0 is off
    --mirostat-lr : N : its learning rate eta (0.1)
    --mirostat-ent : N : the surprise tau that it aims at (5)
    -l --logit-bias : ID+BIAS : make a token likelier or, with -BIAS, less likely; again for more
"""

_NO_GPU = "models run on the processor; there is no GPU backend"
_OWN_MEMORY = "memory is managed by the worker itself"
_OWN_THREADS = "the worker places its threads itself"
_IN_REQUEST = "give it with each request instead"
_FROM_FILE = "the model file decides"
_NO_ENDPOINT = "this version has no such endpoint"
_NO_FEATURE = "this version has no such feature"
_ALWAYS = "this is always on"
_ONE_ATTENTION = "attention never stores its scores: there is no other kind here"
_BY_PROXY = "leave that to the reverse proxy"

FLAGS: tuple[Flag, ...] = (
    *_active(Effect.SERVE, _SERVE),
    *_active(Effect.WORKER, _WORKER),
    *_active(Effect.REQUEST, _SAMPLING),
    *_inert("", """
        -cb --cont-batching ! -nocb --no-cont-batching $ LLAMA_ARG_CONT_BATCHING
        -kvu --kv-unified ! -no-kvu --no-kv-unified $ LLAMA_ARG_KV_UNIFIED
        --jinja ! --no-jinja $ LLAMA_ARG_JINJA
        --warmup ! --no-warmup
        --spec-default
        --repack ! -nr --no-repack $ LLAMA_ARG_REPACK
        --cache-prompt ! --no-cache-prompt $ LLAMA_ARG_CACHE_PROMPT
        --prefill-assistant ! --no-prefill-assistant $ LLAMA_ARG_PREFILL_ASSISTANT
        --log-timestamps ! --no-log-timestamps $ LLAMA_ARG_LOG_TIMESTAMPS
        --log-prefix ! --no-log-prefix $ LLAMA_ARG_LOG_PREFIX
        -e --escape ! --no-escape
        --perf ! --no-perf $ LLAMA_ARG_PERF
        """, Takes.NOTHING, _ALWAYS),
    *_inert("", """
        --log-colors $ LLAMA_ARG_LOG_COLORS
        """, Takes.WORD, _ALWAYS),
    *_inert("", """
        -fa --flash-attn ! --no-flash-attn $ LLAMA_ARG_FLASH_ATTN
        """, Takes.WORD, _ONE_ATTENTION),
    *_inert(_NO_GPU, """
        -ngl --gpu-layers --n-gpu-layers $ LLAMA_ARG_N_GPU_LAYERS
        -sm --split-mode $ LLAMA_ARG_SPLIT_MODE
        -ts --tensor-split $ LLAMA_ARG_TENSOR_SPLIT
        -mg --main-gpu $ LLAMA_ARG_MAIN_GPU
        -dev --device $ LLAMA_ARG_DEVICE
        -ot --override-tensor $ LLAMA_ARG_OVERRIDE_TENSOR
        -ncmoe --n-cpu-moe $ LLAMA_ARG_N_CPU_MOE
        -ncffn --n-cpu-ffn $ LLAMA_ARG_N_CPU_FFN
        -fitt --fit-target $ LLAMA_ARG_FIT_TARGET
        -fitc --fit-ctx $ LLAMA_ARG_FIT_CTX
        --rpc $ LLAMA_ARG_RPC
        """, Takes.VALUE),
    *_inert(_NO_GPU, """
        --metal
        -cmoe --cpu-moe $ LLAMA_ARG_CPU_MOE
        -kvo --kv-offload ! -nkvo --no-kv-offload $ LLAMA_ARG_KV_OFFLOAD
        --op-offload ! --no-op-offload
        --no-host $ LLAMA_ARG_NO_HOST
        -bs --backend-sampling --backend_sampling $ LLAMA_ARG_BACKEND_SAMPLING
        """, Takes.NOTHING),
    *_inert(_NO_GPU, "-fit --fit $ LLAMA_ARG_FIT", Takes.WORD),
    *_inert(_OWN_MEMORY, """
        --swa-full $ LLAMA_ARG_SWA_FULL
        --cache-idle-slots ! --no-cache-idle-slots $ LLAMA_ARG_CACHE_IDLE_SLOTS
        """, Takes.NOTHING),
    *_inert(_OWN_MEMORY, """
        -lzm --lazy-mode $ LLAMA_ARG_LAZY_MODE
        -dt --defrag-thold $ LLAMA_ARG_DEFRAG_THOLD
        --keep
        --kv-unified-per-slot $ LLAMA_ARG_KV_UNIFIED_PER_SLOT
        -ctxcp --ctx-checkpoints --swa-checkpoints $ LLAMA_ARG_CTX_CHECKPOINTS
        -cms --checkpoint-min-step $ LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT
        -cram --cache-ram $ LLAMA_ARG_CACHE_RAM
        --cache-reuse $ LLAMA_ARG_CACHE_REUSE
        -sps --slot-prompt-similarity
        -gan --grp-attn-n $ LLAMA_ARG_GRP_ATTN_N
        -gaw --grp-attn-w $ LLAMA_ARG_GRP_ATTN_W
        """, Takes.VALUE),
    *_inert(_OWN_THREADS, """
        -C --cpu-mask
        -Cr --cpu-range
        --cpu-strict
        --prio
        --poll
        -Cb --cpu-mask-batch
        -Crb --cpu-range-batch
        --cpu-strict-batch
        --prio-batch
        --poll-batch
        --threads-http $ LLAMA_ARG_THREADS_HTTP
        """, Takes.VALUE),
    *_inert(_FROM_FILE, """
        --override-kv
        --chat-template $ LLAMA_ARG_CHAT_TEMPLATE
        --chat-template-file $ LLAMA_ARG_CHAT_TEMPLATE_FILE
        --pooling $ LLAMA_ARG_POOLING
        """, Takes.VALUE),
    *_inert(_IN_REQUEST, """
        -n --predict --n-predict $ LLAMA_ARG_N_PREDICT
        --grammar
        --grammar-file
        -j --json-schema
        -jf --json-schema-file
        -r --reverse-prompt
        --chat-template-kwargs $ LLAMA_ARG_CHAT_TEMPLATE_KWARGS
        --reasoning-format $ LLAMA_ARG_THINK
        --reasoning-effort $ LLAMA_ARG_REASONING_EFFORT
        --reasoning-budget $ LLAMA_ARG_THINK_BUDGET
        --reasoning-budget-message $ LLAMA_ARG_THINK_BUDGET_MESSAGE
        """, Takes.VALUE),
    *_inert(_IN_REQUEST, """
        -sp --special
        --reasoning-preserve ! --no-reasoning-preserve $ LLAMA_ARG_REASONING_PRESERVE
        """, Takes.NOTHING),
    *_inert(_IN_REQUEST, "-rea --reasoning $ LLAMA_ARG_REASONING", Takes.WORD),
    *_inert(_NO_ENDPOINT, """
        --props $ LLAMA_ARG_ENDPOINT_PROPS
        --embedding --embeddings $ LLAMA_ARG_EMBEDDINGS
        --rerank --reranking $ LLAMA_ARG_RERANKING
        --ui --webui ! --no-ui --no-webui $ LLAMA_ARG_UI
        --ui-mcp-proxy --webui-mcp-proxy ! --no-ui-mcp-proxy --no-webui-mcp-proxy $ LLAMA_ARG_UI_MCP_PROXY
        -ag --agent ! -no-ag --no-agent $ LLAMA_ARG_AGENT
        """, Takes.NOTHING, ""),
    *_inert(_NO_ENDPOINT, """
        --media-path
        --embd-normalize
        --path $ LLAMA_ARG_STATIC_PATH
        --ui-config --webui-config $ LLAMA_ARG_UI_CONFIG
        --ui-config-file --webui-config-file $ LLAMA_ARG_UI_CONFIG_FILE
        --tools $ LLAMA_ARG_TOOLS
        --tools-runtime $ LLAMA_ARG_TOOLS_RUNTIME
        --mcp-servers-config $ LLAMA_ARG_MCP_SERVERS_CONFIG
        --mcp-servers-json $ LLAMA_ARG_MCP_SERVERS_JSON
        """, Takes.VALUE),
    *_inert(_BY_PROXY, """
        --api-prefix $ LLAMA_ARG_API_PREFIX
        -to --timeout $ LLAMA_ARG_TIMEOUT
        """, Takes.VALUE),
    *_inert(_NO_FEATURE, """
        -hff --hf-file $ LLAMA_ARG_HF_FILE
        -hft --hf-token
        -dr --docker-repo $ LLAMA_ARG_DOCKER_REPO
        --tags $ LLAMA_ARG_TAGS
        --lora
        --lora-scaled
        --control-vector
        --control-vector-scaled
        -mm --mmproj $ LLAMA_ARG_MMPROJ
        -mmu --mmproj-url $ LLAMA_ARG_MMPROJ_URL
        -mmdev --mmproj-device
        --image-min-tokens $ LLAMA_ARG_IMAGE_MIN_TOKENS
        --image-max-tokens $ LLAMA_ARG_IMAGE_MAX_TOKENS
        --mtmd-batch-max-tokens $ LLAMA_ARG_MTMD_BATCH_MAX_TOKENS
        --video-fps $ LLAMA_ARG_VIDEO_FPS
        --video-timestamp-interval $ LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL
        --video-ffmpeg-dir $ LLAMA_ARG_VIDEO_FFMPEG_DIR
        --log-prompts-dir
        --sse-ping-interval $ LLAMA_ARG_SSE_PING_INTERVAL
        -lcs --lookup-cache-static
        -lcd --lookup-cache-dynamic
        -hfd -hfrd --hf-repo-draft --spec-draft-hf $ LLAMA_ARG_SPEC_DRAFT_HF_REPO
        -md --model-draft --spec-draft-model $ LLAMA_ARG_SPEC_DRAFT_MODEL
        -td --threads-draft --spec-draft-threads
        -tbd --threads-batch-draft --spec-draft-threads-batch
        -ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl $ LLAMA_ARG_N_GPU_LAYERS_DRAFT
        -devd --device-draft --spec-draft-device
        -ctkd --cache-type-k-draft --spec-draft-type-k $ LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K
        -ctvd --cache-type-v-draft --spec-draft-type-v $ LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V
        --draft-min --draft-n-min --spec-draft-n-min $ LLAMA_ARG_DRAFT_MIN LLAMA_ARG_SPEC_DRAFT_N_MIN
        --draft-p-min --spec-draft-p-min $ LLAMA_ARG_SPEC_DRAFT_P_MIN
        --draft-p-split --spec-draft-p-split $ LLAMA_ARG_SPEC_DRAFT_P_SPLIT
        --spec-draft-sampling $ LLAMA_ARG_SPEC_DRAFT_SAMPLING
        --spec-synth-len $ LLAMA_ARG_SPEC_SYNTH_LEN
        --spec-synth-rates $ LLAMA_ARG_SPEC_SYNTH_RATES
        """, Takes.VALUE),
    *_inert(_NO_FEATURE, """
        --offline $ LLAMA_ARG_OFFLINE
        --reuse-port $ LLAMA_ARG_REUSE_PORT
        --spm-infill
        --lora-init-without-apply
        --skip-chat-parsing ! --no-skip-chat-parsing $ LLAMA_ARG_SKIP_CHAT_PARSING
        --mmproj-auto ! --no-mmproj --no-mmproj-auto $ LLAMA_ARG_MMPROJ_AUTO
        --mmproj-offload ! --no-mmproj-offload $ LLAMA_ARG_MMPROJ_OFFLOAD
        """, Takes.NOTHING, ""),
    *_inert(_NO_FEATURE, "--control-vector-layer-range", Takes.PAIR),
    Flag(
        key="numa",
        names=("--numa",),
        effect=Effect.WORKER,
        takes=Takes.WORD,
        words=frozenset({"distribute", "isolate", "numactl"}),
        variables=("LLAMA_ARG_NUMA",),
        metavar="distribute|isolate|numactl",
        help="where threads run on a machine of several nodes; alone: distribute",
    ),
)  # fmt: skip
