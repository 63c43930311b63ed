"""What native code reads of a model and a step: records of addresses and numbers, named as the fields of this code.

decoder.py fills them, forward.py and the kernels read them. A field of int64 is an address in bytes unless its comment
says otherwise; 0 means that the model has no such thing.
"""

import numpy as np

_ADDRESS = np.int64
_COUNT = np.int64

MATRIX = np.dtype([
    ("product", _ADDRESS),  # native code for its format
    ("panels", _ADDRESS), ("panel_bytes", _COUNT), ("num_panels", _COUNT), ("num_columns", _COUNT),
])  # fmt: skip

# Matrices and vectors bear their GGUF names, without "blk.N." and ".weight"; biases end in _bias.
LAYER = np.dtype([
    ("attn_norm", _ADDRESS),
    ("attn_qkv", MATRIX), ("attn_q", MATRIX), ("attn_k", MATRIX), ("attn_v", MATRIX),
    ("attn_qkv_bias", _ADDRESS), ("attn_q_bias", _ADDRESS), ("attn_k_bias", _ADDRESS), ("attn_v_bias", _ADDRESS),
    ("attn_q_norm", _ADDRESS), ("attn_k_norm", _ADDRESS),  # of each head
    ("attn_output", MATRIX), ("post_attention_norm", _ADDRESS),
    ("ffn_norm", _ADDRESS), ("ffn_gate", MATRIX), ("ffn_up", MATRIX), ("ffn_down", MATRIX), ("post_ffw_norm", _ADDRESS),
    ("ffn_gate_inp", MATRIX),  # the scores of experts
    ("ffn_gate_exps", MATRIX), ("ffn_up_exps", MATRIX), ("ffn_down_exps", MATRIX),  # the first expert's
    ("rotations", _ADDRESS),  # f32 [position][pair][cosine, sine]
    ("window", _COUNT),  # positions a token sees; 0: all
    ("keys", _ADDRESS), ("values", _ADDRESS),  # this layer's cache blocks
])  # fmt: skip


def model_record(natives: list[str]) -> "np.dtype[np.void]":
    """The MODEL record, with a field for the address of each native kernel."""
    return np.dtype([
        ("token_embd", MATRIX), ("output", MATRIX), ("output_norm", _ADDRESS),
        ("num_layers", _COUNT), ("width", _COUNT), ("hidden_width", _COUNT),
        ("num_heads", _COUNT), ("num_kv_heads", _COUNT), ("head_dim", _COUNT), ("num_rotated_pairs", _COUNT),
        ("num_experts", _COUNT), ("num_used_experts", _COUNT), ("scores_width", _COUNT),
        ("key_page_bytes", _COUNT), ("value_page_bytes", _COUNT),  # of a page in one layer, all KV heads
        ("state_bytes", _COUNT),  # of a row of attention
        ("needs_values", _COUNT),  # 1 if any matrix is of floats, but for the experts' scores
        ("epsilon", np.float32), ("embedding_scale", np.float32), ("logit_softcap", np.float32),
        ("experts_scale", np.float32), ("attention_scale", np.float32), ("attention_softcap", np.float32),
        *((name, _ADDRESS) for name in natives),
    ])  # fmt: skip


STEP = np.dtype([
    ("num_tokens", _COUNT), ("num_sequences", _COUNT), ("num_logit_rows", _COUNT),
    ("tokens", _ADDRESS), ("starts", _ADDRESS), ("contexts", _ADDRESS), ("logit_rows", _ADDRESS),  # i32 each
    ("blocks", _ADDRESS), ("blocks_stride", _COUNT),  # i32 block numbers by sequence; bytes from one to the next
    ("hidden", _ADDRESS),  # f32 [token][width], the residual stream
    ("qkv", _ADDRESS),  # f32 [token][q heads | k heads | v heads][head_dim]
    ("attention", _ADDRESS),  # f32 [token][heads][head_dim]
    ("projected", _ADDRESS),  # f32 [token][width], what a norm follows before it joins the residual stream
    ("gate_up", _ADDRESS),  # f32 [token][gate | up], or [row][gate | up], a row being a token in one of its experts
    ("scores", _ADDRESS),  # f32 [token][experts]
    ("routes", _ADDRESS), ("routes_stride", _COUNT), ("max_rows", _COUNT),  # of each thread: see experts.routes_at
    ("expert_outputs", _ADDRESS),  # f32 [row][width]
    ("inputs", _ADDRESS), ("inputs_stride", _COUNT),  # of each thread: f32 values, codes, factors of a product's input
    ("codes_offset", _COUNT), ("factors_offset", _COUNT),
    ("scratch", _ADDRESS), ("scratch_stride", _COUNT), ("states_offset", _COUNT),  # of each thread, for attention
    ("parts", _ADDRESS), ("max_parts", _COUNT),  # states of rows whose chunks different threads compute
    ("num_tiles", _COUNT),
    ("logits", _ADDRESS), ("logits_stride", _COUNT),
])  # fmt: skip

# Neighbouring rows (token and query head) of one sequence, whose attention is computed together.
TILE = np.dtype([
    ("sequence", _COUNT), ("first_row", _COUNT), ("end_row", _COUNT),
    ("is_wide", _COUNT),
    ("first_part", _COUNT),  # -1: one thread computes all its chunks
    ("num_chunks", _COUNT),  # of the sequence, up to its last new token
])  # fmt: skip
