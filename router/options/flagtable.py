"""llama-server's flags, and ours, as one table: what each is called, what it takes, and what it means here.

Read by flags.py. Both of llama-server's spellings are in it, the older and today's. Those without an effect here are in
inertflags.py, those that cannot be had in refusedflags.py. Invariant: no name stands in two rows.
"""

from router.options.flagrows import Effect, Flag, active
from router.options.inertflags import INERT
from router.options.refusedflags import REFUSED

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
    -hff --hf-file $ LLAMA_ARG_HF_FILE : NAME : the file of the repository that -hf names, instead of its QUANT
    -hft --hf-token $ HF_TOKEN : TOKEN : for repositories that ask for one (visible in ps: better the variable)
    -mu --model-url $ LLAMA_ARG_MODEL_URL : URL : a model to fetch first, as `corral pull URL`
    -hfd -hfrd --hf-repo-draft --spec-draft-hf $ LLAMA_ARG_SPEC_DRAFT_HF_REPO : USER/REPO[:QUANT] : a --model-draft
    --offline $ LLAMA_ARG_OFFLINE :  : fetch nothing: of -hf and --model-url take what was fetched before
    -a --alias $ LLAMA_ARG_ALIAS : NAME=FILE : a name for a model; with one model also NAME[,NAME...]
    --host $ LLAMA_ARG_HOST : HOST[,...] : addresses to listen on (127.0.0.1), or paths ending in .sock
    --port $ LLAMA_ARG_PORT : PORT : port to listen on (8080); 0 takes a free one
    --api-key $ LLAMA_API_KEY : KEY[,...] : keys that may call (visible in ps: better a file)
    --api-key-file $ LLAMA_ARG_API_KEY_FILE : FILE : keys that may call, one a line; # begins a comment
    --keys $ CORRAL_KEYS : FILE : keys with rights and limits, as `corral keys` keeps them
    --allowed-hosts : HOST[,...] : names this server has, beside localhost and addresses
    --insecure-no-auth :  : listen beyond loopback without any key
    --cors :  : let web pages of every origin call
    --cors-origin --cors-origins $ LLAMA_ARG_CORS_ORIGINS : ORIGIN[,...] : ... of these, or localhost, call
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
    --redis $ CORRAL_REDIS : URL : share keys' limits with other gateways, each alone while it is away (visible in ps)
    --otlp $ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT : URL : export traces there (corral[otel])
    --watch ! --no-watch :  : take changes of the configuration's files into force (the default)
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
    --spec-type $ LLAMA_ARG_SPEC_TYPE : TYPE[,...] : guess next tokens: none, ngram-simple, draft-simple (what there is)
    --draft --draft-n --draft-max --spec-draft-n-max $ LLAMA_ARG_DRAFT_MAX LLAMA_ARG_SPEC_DRAFT_N_MAX : N : 0 is off (3)
    -md --spec-draft-model --model-draft $ LLAMA_ARG_SPEC_DRAFT_MODEL : FILE : a small model that guesses (draft-simple)
    -cd --ctx-size-draft $ LLAMA_ARG_CTX_SIZE_DRAFT : N : positions for what it guesses (as --ctx-size)
    -td --spec-draft-threads --threads-draft : N : its threads (as --threads)
    -tbd --spec-draft-threads-batch --threads-batch-draft : N : the same, for prompts
    -ctkd --spec-draft-type-k --cache-type-k-draft $ LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K : TYPE : of its cached keys (f16)
    -ctvd --spec-draft-type-v --cache-type-v-draft $ LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V : TYPE : of its values (f16)
    --draft-min --draft-n-min --spec-draft-n-min $ LLAMA_ARG_DRAFT_MIN LLAMA_ARG_SPEC_DRAFT_N_MIN : N : try no fewer (0)
    --draft-p-min --spec-draft-p-min $ LLAMA_ARG_SPEC_DRAFT_P_MIN : P : try none less likely than this (0)
    --context-shift ! --no-context-shift $ LLAMA_ARG_CONTEXT_SHIFT :  : make room in a full context, do not end there
    --slot-save-path : DIR : where POST /slots/N may save computed prefixes
    --kv-store : DIR : keep computed prefixes here over a restart
    --kv-store-size : MIB : that they may take, for each model that runs (4096); what others have left there goes first
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
    --numa $ LLAMA_ARG_NUMA : [distribute|isolate|numactl] : where threads run on several nodes; alone: distribute
    --chat-template $ LLAMA_ARG_CHAT_TEMPLATE : TEXT : a Jinja template for conversations, instead of the file's
    --chat-template-file $ LLAMA_ARG_CHAT_TEMPLATE_FILE : FILE : the same, from a file
"""

_SAMPLING = """
    -n --predict --n-predict $ LLAMA_ARG_N_PREDICT : N : tokens of an answer at most (-1: until the context is full)
    --keep : N : tokens that a context shift leaves alone (0); -1 is the prompt
    --cache-prompt ! --no-cache-prompt $ LLAMA_ARG_CACHE_PROMPT :  : reuse what was computed (the default)
    --samplers : NAME;... : samplers in the order in which they act (penalties;dry;top_n_sigma;top_k;typ_p;...)
    --sampler-seq --sampling-seq : LETTERS : the same, a letter for each (edskypmxt)
    -s --seed : N : seed of requests that have none; -1 draws one (-1)
    --ignore-eos :  : go on behind the end of an answer
    --prefill-assistant ! --no-prefill-assistant $ LLAMA_ARG_PREFILL_ASSISTANT :  : go on from a last answer
    -r --reverse-prompt : TEXT : where an answer stops, if a request has no `stop`; again for more
    -e --escape ! --no-escape :  : \\n in --reverse-prompt and --dry-sequence-breaker is a new line (the default)
    --chat-template-kwargs $ LLAMA_ARG_CHAT_TEMPLATE_KWARGS : JSON : an object of variables for the chat template
    --reasoning-effort $ LLAMA_ARG_REASONING_EFFORT : LEVEL : one of them, reasoning_effort; default: the template's
    -rea --reasoning $ LLAMA_ARG_REASONING : [on|off|auto] : one of them, enable_thinking; auto: the template's
    --sse-ping-interval $ LLAMA_ARG_SSE_PING_INTERVAL : N : seconds between comments in a silent stream (30); -1: none
    --temp --temperature $ LLAMA_ARG_TEMPERATURE : X : temperature (0.8)
    --top-k $ LLAMA_ARG_TOP_K : N : choose among the N most likely tokens (40); 0 is off
    --top-p $ LLAMA_ARG_TOP_P : P : ... that together have the probability P (0.95); 1 is off
    --min-p $ LLAMA_ARG_MIN_P : P : ... that are P times as likely as the first (0.05); 0 is off
    --top-nsigma --top-n-sigma : X : ... within X standard deviations of the first (-1); 0 or less is off
    --xtc-probability : P : drop the likelier of several good tokens this often (0)
    --xtc-threshold : P : from this probability on a token is a good one (0.1)
    --typical --typical-p : P : keep tokens as surprising as usual (1); 1 is off
    --repeat-last-n : N : tokens that penalties look back at (64); -1 is all
    --repeat-penalty $ LLAMA_ARG_REPEAT_PENALTY : X : factor against tokens that were there (1); 1 is off
    --presence-penalty $ LLAMA_ARG_PRESENCE_PENALTY : X : what they lose beside (0)
    --frequency-penalty $ LLAMA_ARG_FREQUENCY_PENALTY : X : what they lose for each time (0)
    --dry-multiplier : X : strength of DRY, against repeated sequences (0); 0 is off
    --dry-base : X : its growth with their length (1.75)
    --dry-allowed-length : N : tokens that may be repeated (2)
    --dry-penalty-last-n : N : tokens that DRY looks back at (64); -1 is all
    --dry-sequence-breaker : TEXT : where a sequence begins anew; again for more, none for none
    --adaptive-target : P : with the sampler adaptive_p: prefer tokens this likely (-1); negative is off
    --adaptive-decay : P : how slowly it forgets, 0 to 0.99 (0.9)
    --dynatemp-range : X : let the temperature follow the entropy, this far either way (0); 0 is off
    --dynatemp-exp : X : exponent of that (1)
    --mirostat : 0|1|2 : Mirostat of that version instead of other samplers (0); 0 is off
    --mirostat-lr : X : its learning rate eta (0.1)
    --mirostat-ent : X : the surprise tau that it aims at (5)
    -l --logit-bias : ID+BIAS : make a token likelier or, with -BIAS, less likely; again for more
"""

_SHOW = """
    -h --usage --help :  : this text
    --version :  : the version
    -cl --cache-list :  : the models that were fetched
    --list-devices :  : what models can run on
    --completion-bash :  : a script for bash that completes these flags: source <(corral serve --completion-bash)
"""

FLAGS: tuple[Flag, ...] = (
    *active(Effect.SERVE, _SERVE),
    *active(Effect.WORKER, _WORKER),
    *active(Effect.REQUEST, _SAMPLING),
    *active(Effect.SHOW, _SHOW),
    *INERT,
    *REFUSED,
)
