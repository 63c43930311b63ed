"""llama-server's flags that are understood and have no effect here, each with a note that says why.

Part of flagtable.py's table, so that a command line written for llama-server starts Corral. An empty note means that
things are always so.
"""

from router.options.flagrows import Flag, Takes, inert

_NO_GPU = "models run on the processor; there is no GPU backend"
_OWN_MEMORY = "memory is managed by the worker itself"
_OWN_THREADS = "the worker places its threads itself"
_OWN_GUESSES = "a lookup needs 3 equal tokens, and --spec-draft-n-max bounds what it guesses"
_JUDGED = "guesses count by what the sampler chooses, nothing else"
_NO_THOUGHTS = "thoughts stay in the content of an answer"
_NO_PROMPTS = "prompts are never logged"
_NO_ENDPOINT = "this version has no such endpoint"
_NO_FEATURE = "this version has no such feature"
_ALWAYS = "this is always on"
_ONE_ATTENTION = "attention never stores its scores: there is no other kind here"
_BY_PROXY = "leave that to the reverse proxy"

INERT: tuple[Flag, ...] = (
    *inert("", """
        -cb --cont-batching ! -nocb --no-cont-batching $ LLAMA_ARG_CONT_BATCHING
        -kvu --kv-unified ! -no-kvu --no-kv-unified $ LLAMA_ARG_KV_UNIFIED
        --jinja ! --no-jinja $ LLAMA_ARG_JINJA
        --warmup ! --no-warmup
        --spec-default
        --repack ! -nr --no-repack $ LLAMA_ARG_REPACK
        --log-timestamps ! --no-log-timestamps $ LLAMA_ARG_LOG_TIMESTAMPS
        --log-prefix ! --no-log-prefix $ LLAMA_ARG_LOG_PREFIX
        --perf ! --no-perf $ LLAMA_ARG_PERF
        """, Takes.NOTHING, _ALWAYS),
    *inert("", """
        --log-colors $ LLAMA_ARG_LOG_COLORS
        """, Takes.WORD, _ALWAYS),
    *inert("", """
        -fa --flash-attn ! --no-flash-attn $ LLAMA_ARG_FLASH_ATTN
        """, Takes.WORD, _ONE_ATTENTION),
    *inert(_NO_GPU, """
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
        -ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl $ LLAMA_ARG_N_GPU_LAYERS_DRAFT
        -devd --device-draft --spec-draft-device
        -otd --override-tensor-draft --spec-draft-override-tensor
        -ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe $ LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE
        -mmdev --mmproj-device $ MTMD_BACKEND_DEVICE
        """, Takes.VALUE),
    *inert(_NO_GPU, """
        --metal
        -cmoe --cpu-moe $ LLAMA_ARG_CPU_MOE
        -cmoed --cpu-moe-draft --spec-draft-cpu-moe $ LLAMA_ARG_SPEC_DRAFT_CPU_MOE
        -kvo --kv-offload ! -nkvo --no-kv-offload $ LLAMA_ARG_KV_OFFLOAD
        --op-offload ! --no-op-offload
        --no-host $ LLAMA_ARG_NO_HOST
        -bs --backend-sampling --backend_sampling $ LLAMA_ARG_BACKEND_SAMPLING
        --spec-draft-backend-sampling ! --no-spec-draft-backend-sampling $ LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING
        --mmproj-offload ! --no-mmproj-offload $ LLAMA_ARG_MMPROJ_OFFLOAD
        """, Takes.NOTHING),
    *inert(_NO_GPU, "-fit --fit $ LLAMA_ARG_FIT", Takes.WORD),
    *inert(_OWN_MEMORY, """
        --swa-full $ LLAMA_ARG_SWA_FULL
        --cache-idle-slots ! --no-cache-idle-slots $ LLAMA_ARG_CACHE_IDLE_SLOTS
        """, Takes.NOTHING),
    *inert(_OWN_MEMORY, """
        -lzm --lazy-mode $ LLAMA_ARG_LAZY_MODE
        -dt --defrag-thold $ LLAMA_ARG_DEFRAG_THOLD
        --kv-unified-per-slot $ LLAMA_ARG_KV_UNIFIED_PER_SLOT
        -ctxcp --ctx-checkpoints --swa-checkpoints $ LLAMA_ARG_CTX_CHECKPOINTS
        -cms --checkpoint-min-step $ LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT
        -cram --cache-ram $ LLAMA_ARG_CACHE_RAM
        --cache-reuse $ LLAMA_ARG_CACHE_REUSE
        -sps --slot-prompt-similarity
        -gaw --grp-attn-w $ LLAMA_ARG_GRP_ATTN_W
        """, Takes.VALUE),
    *inert(_OWN_THREADS, """
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
        -Cd --cpu-mask-draft --spec-draft-cpu-mask
        -Crd --cpu-range-draft --spec-draft-cpu-range
        --cpu-strict-draft --spec-draft-cpu-strict
        --prio-draft --spec-draft-prio
        --poll-draft --spec-draft-poll
        -Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch
        --cpu-strict-batch-draft --spec-draft-cpu-strict-batch
        --prio-batch-draft --spec-draft-prio-batch
        --poll-batch-draft --spec-draft-poll-batch
        --threads-http $ LLAMA_ARG_THREADS_HTTP
        """, Takes.VALUE),
    *inert(_OWN_GUESSES, """
        --spec-ngram-size-n
        --spec-ngram-size-m
        --spec-ngram-min-hits
        --spec-ngram-simple-size-n
        --spec-ngram-simple-size-m
        --spec-ngram-simple-min-hits
        --spec-ngram-map-k-size-n
        --spec-ngram-map-k-size-m
        --spec-ngram-map-k-min-hits
        --spec-ngram-map-k4v-size-n
        --spec-ngram-map-k4v-size-m
        --spec-ngram-map-k4v-min-hits
        --spec-ngram-mod-n-min
        --spec-ngram-mod-n-max
        --spec-ngram-mod-n-match
        -lcs --lookup-cache-static
        -lcd --lookup-cache-dynamic
        """, Takes.VALUE),
    *inert(_JUDGED, """
        --draft-p-split --spec-draft-p-split $ LLAMA_ARG_SPEC_DRAFT_P_SPLIT
        --spec-draft-sampling $ LLAMA_ARG_SPEC_DRAFT_SAMPLING
        --spec-synth-len $ LLAMA_ARG_SPEC_SYNTH_LEN
        --spec-synth-rates $ LLAMA_ARG_SPEC_SYNTH_RATES
        """, Takes.VALUE),
    *inert(_NO_THOUGHTS, """
        --reasoning-format $ LLAMA_ARG_THINK
        --reasoning-budget-message $ LLAMA_ARG_THINK_BUDGET_MESSAGE
        """, Takes.VALUE),
    *inert("", """
        --skip-chat-parsing ! --no-skip-chat-parsing $ LLAMA_ARG_SKIP_CHAT_PARSING
        """, Takes.NOTHING, _NO_THOUGHTS),
    *inert(_NO_ENDPOINT, """
        --props $ LLAMA_ARG_ENDPOINT_PROPS
        --embedding --embeddings $ LLAMA_ARG_EMBEDDINGS
        --rerank --reranking $ LLAMA_ARG_RERANKING
        --ui --webui ! --no-ui --no-webui $ LLAMA_ARG_UI
        --ui-mcp-proxy --webui-mcp-proxy ! --no-ui-mcp-proxy --no-webui-mcp-proxy $ LLAMA_ARG_UI_MCP_PROXY
        -ag --agent ! -no-ag --no-agent $ LLAMA_ARG_AGENT
        """, Takes.NOTHING, ""),
    *inert(_NO_ENDPOINT, """
        --media-path
        --embd-normalize
        --pooling $ LLAMA_ARG_POOLING
        --path $ LLAMA_ARG_STATIC_PATH
        --ui-config --webui-config $ LLAMA_ARG_UI_CONFIG
        --ui-config-file --webui-config-file $ LLAMA_ARG_UI_CONFIG_FILE
        --tools $ LLAMA_ARG_TOOLS
        --tools-runtime $ LLAMA_ARG_TOOLS_RUNTIME
        --mcp-servers-config $ LLAMA_ARG_MCP_SERVERS_CONFIG
        --mcp-servers-json $ LLAMA_ARG_MCP_SERVERS_JSON
        """, Takes.VALUE),
    *inert(_BY_PROXY, """
        -to --timeout $ LLAMA_ARG_TIMEOUT
        """, Takes.VALUE),
    *inert(_NO_PROMPTS, "--log-prompts-dir", Takes.VALUE),
    *inert(_NO_FEATURE, """
        --tags $ LLAMA_ARG_TAGS
        -mm --mmproj $ LLAMA_ARG_MMPROJ
        -mmu --mmproj-url $ LLAMA_ARG_MMPROJ_URL
        --image-min-tokens $ LLAMA_ARG_IMAGE_MIN_TOKENS
        --image-max-tokens $ LLAMA_ARG_IMAGE_MAX_TOKENS
        --mtmd-batch-max-tokens $ LLAMA_ARG_MTMD_BATCH_MAX_TOKENS
        --video-fps $ LLAMA_ARG_VIDEO_FPS
        --video-timestamp-interval $ LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL
        --video-ffmpeg-dir $ LLAMA_ARG_VIDEO_FFMPEG_DIR
        """, Takes.VALUE),
    *inert(_NO_FEATURE, """
        --reuse-port $ LLAMA_ARG_REUSE_PORT
        --spm-infill
        --lora-init-without-apply
        --mmproj-auto ! --no-mmproj --no-mmproj-auto $ LLAMA_ARG_MMPROJ_AUTO
        --reasoning-preserve ! --no-reasoning-preserve $ LLAMA_ARG_REASONING_PRESERVE
        """, Takes.NOTHING, ""),
)  # fmt: skip
