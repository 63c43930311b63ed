"""llama-server's flags that are understood and end the start: answers would not be what they ask for.

Part of flagtable.py's table. Invariant: a reason says why, and what to do instead.
"""

from router.options.flagrows import Flag, Takes, refused

_AS_THE_FILE_IS = "a model is served as its file is; merge the adapter into the file, and serve that"
_METADATA = "a model is served as its file says; write what is to be otherwise into the file's metadata"
_NO_GRAMMAR = "answers are not held to a grammar in this version; leave it out, and check them where they are used"
_NO_BUDGET = "thinking is not counted apart from the answer; bound both by max_tokens or --n-predict"
_NO_SPECIAL = "an answer's text has no control tokens; ask for `return_tokens` to get their ids"
_STRETCHED_OTHERWISE = "a context is stretched by --rope-scaling yarn --rope-scale N"
_NO_PREFIX = "routes have no prefix; let a reverse proxy take it off"
_NO_DOCKER = "models come from Hugging Face or by URL: give -hf USER/REPO[:QUANT] or --model-url URL"
_NO_PRESET = "name the model that is meant: -hf USER/REPO[:QUANT], and one that guesses for it with --spec-draft-hf"

REFUSED: tuple[Flag, ...] = (
    *refused(_AS_THE_FILE_IS, """
        --lora
        --lora-scaled
        --control-vector
        --control-vector-scaled
        """),
    *refused(_AS_THE_FILE_IS, "--control-vector-layer-range", Takes.PAIR),
    *refused(_METADATA, "--override-kv"),
    *refused(_NO_GRAMMAR, """
        --grammar
        --grammar-file
        -j --json-schema
        -jf --json-schema-file
        """),
    *refused(_NO_BUDGET, "--reasoning-budget $ LLAMA_ARG_THINK_BUDGET = -1"),
    *refused(_NO_SPECIAL, "-sp --special", Takes.NOTHING),
    *refused(_STRETCHED_OTHERWISE, "-gan --grp-attn-n $ LLAMA_ARG_GRP_ATTN_N = 1"),
    *refused(_NO_PREFIX, "--api-prefix $ LLAMA_ARG_API_PREFIX = /"),
    *refused(_NO_DOCKER, "-dr --docker-repo $ LLAMA_ARG_DOCKER_REPO"),
    *refused(_NO_PRESET, """
        --embd-gemma-default
        --fim-qwen-1.5b-default
        --fim-qwen-3b-default
        --fim-qwen-7b-default
        --fim-qwen-7b-spec
        --fim-qwen-14b-spec
        --fim-qwen-30b-default
        --gpt-oss-20b-default
        --gpt-oss-120b-default
        --vision-gemma-4b-default
        --vision-gemma-12b-default
        """, Takes.NOTHING),
)  # fmt: skip
