"""llama-server's flags that are understood and have no effect here, each with a note that says why.

Part of flagtable.py's table, so that a command line written for llama-server starts Corral. An empty note means that
things are always so.
"""

from router.options.flagrows import Flag, Takes, inert

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
        -e --escape ! --no-escape
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
        """, Takes.VALUE),
    *inert(_NO_GPU, """
        --metal
        -cmoe --cpu-moe $ LLAMA_ARG_CPU_MOE
        -kvo --kv-offload ! -nkvo --no-kv-offload $ LLAMA_ARG_KV_OFFLOAD
        --op-offload ! --no-op-offload
        --no-host $ LLAMA_ARG_NO_HOST
        -bs --backend-sampling --backend_sampling $ LLAMA_ARG_BACKEND_SAMPLING
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
        -gan --grp-attn-n $ LLAMA_ARG_GRP_ATTN_N
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
        --threads-http $ LLAMA_ARG_THREADS_HTTP
        """, Takes.VALUE),
    *inert(_FROM_FILE, """
        --override-kv
        --chat-template $ LLAMA_ARG_CHAT_TEMPLATE
        --chat-template-file $ LLAMA_ARG_CHAT_TEMPLATE_FILE
        --pooling $ LLAMA_ARG_POOLING
        """, Takes.VALUE),
    *inert(_IN_REQUEST, """
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
    *inert(_IN_REQUEST, """
        -sp --special
        --reasoning-preserve ! --no-reasoning-preserve $ LLAMA_ARG_REASONING_PRESERVE
        """, Takes.NOTHING),
    *inert(_IN_REQUEST, "-rea --reasoning $ LLAMA_ARG_REASONING", Takes.WORD),
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
        --path $ LLAMA_ARG_STATIC_PATH
        --ui-config --webui-config $ LLAMA_ARG_UI_CONFIG
        --ui-config-file --webui-config-file $ LLAMA_ARG_UI_CONFIG_FILE
        --tools $ LLAMA_ARG_TOOLS
        --tools-runtime $ LLAMA_ARG_TOOLS_RUNTIME
        --mcp-servers-config $ LLAMA_ARG_MCP_SERVERS_CONFIG
        --mcp-servers-json $ LLAMA_ARG_MCP_SERVERS_JSON
        """, Takes.VALUE),
    *inert(_BY_PROXY, """
        --api-prefix $ LLAMA_ARG_API_PREFIX
        -to --timeout $ LLAMA_ARG_TIMEOUT
        """, Takes.VALUE),
    *inert(_NO_FEATURE, """
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
        --draft-p-split --spec-draft-p-split $ LLAMA_ARG_SPEC_DRAFT_P_SPLIT
        --spec-draft-sampling $ LLAMA_ARG_SPEC_DRAFT_SAMPLING
        --spec-synth-len $ LLAMA_ARG_SPEC_SYNTH_LEN
        --spec-synth-rates $ LLAMA_ARG_SPEC_SYNTH_RATES
        """, Takes.VALUE),
    *inert(_NO_FEATURE, """
        --offline $ LLAMA_ARG_OFFLINE
        --reuse-port $ LLAMA_ARG_REUSE_PORT
        --spm-infill
        --lora-init-without-apply
        --skip-chat-parsing ! --no-skip-chat-parsing $ LLAMA_ARG_SKIP_CHAT_PARSING
        --mmproj-auto ! --no-mmproj --no-mmproj-auto $ LLAMA_ARG_MMPROJ_AUTO
        --mmproj-offload ! --no-mmproj-offload $ LLAMA_ARG_MMPROJ_OFFLOAD
        """, Takes.NOTHING, ""),
    *inert(_NO_FEATURE, "--control-vector-layer-range", Takes.PAIR),
)  # fmt: skip
