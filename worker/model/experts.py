"""Mixture of experts: which experts a token goes through, and the products of those experts.

forward.py calls these kernels. A row is one token in one of its experts; the rows of a step lie sorted by expert, so
that each expert's panels are read once for all of its tokens. Invariant: where a row lies depends on the step, what is
in it does not; a token's results are added up in the order of its own scores.
"""

import numpy as np

from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.codes import BLOCK
from worker.kernels.jit import call, kernel, native
from worker.kernels.memory import load, load_scalar, load_scalar_i32, store, store_scalar, store_scalar_i32
from worker.kernels.ops import VECTOR, exp
from worker.kernels.simd import LANES, fma, pick, splat, sum_lanes, zeros

_NO_SCORE = np.float32(-np.inf)


def routes_bytes(max_rows: int, num_experts: int, num_used: int) -> int:
    """Size of what `route` writes for at most so many rows."""
    return 4 * (3 * max_rows + num_experts + 2) + VECTOR * -(-num_used // LANES)


@kernel
def routes_at(routes, max_rows):
    """Addresses in what `route` writes, i32 or f32 each.

    experts, weights, rows: [token][num_used], a token's best expert first: its number, its weight, and the row where
    the two meet; starts: [num_experts + 1] the first row of each expert, then the number of rows.
    """
    experts, weights, rows, starts = routes, routes + 4 * max_rows, routes + 8 * max_rows, routes + 12 * max_rows
    return experts, weights, rows, starts


@kernel
def row_at(routes, max_rows, pair):
    """(row, first row of its expert, number of rows of its expert) of a (token, rank), numbered token by token."""
    experts, _, rows, starts = routes_at(routes, max_rows)
    start = starts + 4 * load_scalar_i32(experts + 4 * pair)
    first, end = np.int64(load_scalar_i32(start)), np.int64(load_scalar_i32(start + 4))
    return np.int64(load_scalar_i32(rows + 4 * pair)), first, end - first


@native("iiiiiiif")
def route(scores, scores_stride, num_tokens, num_experts, num_used, routes, max_rows, scale):
    """Chooses experts for each token by its scores, f32 rows `scores_stride` bytes apart, and sorts the rows."""
    experts, weights, rows, starts = routes_at(routes, max_rows)
    best = starts + 4 * (num_experts + 2)
    for token in range(num_tokens):
        place = 4 * num_used * token
        choose(scores + token * scores_stride, num_experts, num_used, experts + place, best)
        weigh(best, num_used, weights + place, scale)
    sort_rows(experts, num_tokens * num_used, num_experts, rows, starts)


@kernel
def choose(scores, num_experts, num_used, experts, best):
    """The experts with the highest scores, best first, of equal ones the lower number first; their scores to `best`.

    best: whole vectors; what is not used is filled so that it has no weight.
    """
    for rank in range(0, num_used, LANES):
        store(best + 4 * rank, splat(_NO_SCORE))
    for expert in range(num_experts):
        score = load_scalar(scores + 4 * expert)
        rank = min(expert, num_used)
        while rank > 0 and load_scalar(best + 4 * (rank - 1)) < score:
            rank -= 1
            if rank + 1 < num_used:
                store_scalar(best + 4 * (rank + 1), load_scalar(best + 4 * rank))
                store_scalar_i32(experts + 4 * (rank + 1), load_scalar_i32(experts + 4 * rank))
        if rank < num_used:
            store_scalar(best + 4 * rank, score)
            store_scalar_i32(experts + 4 * rank, np.int32(expert))


@kernel
def weigh(best, num_used, weights, scale):
    """Softmax of the chosen scores, times scale: that of all scores, made to add up to 1 among the chosen."""
    largest = splat(load_scalar(best))
    total = pick(zeros(1), 0)
    for rank in range(0, num_used, LANES):
        shares = exp(load(best + 4 * rank) - largest)
        store(best + 4 * rank, shares)
        total = total + shares
    factor = scale / sum_lanes(total)
    for rank in range(num_used):
        store_scalar(weights + 4 * rank, load_scalar(best + 4 * rank) * factor)


@kernel
def sort_rows(experts, num_rows, num_experts, rows, starts):
    """Counting sort. starts has a place more than it needs at the end: counts stand two places, ends one further on."""
    for expert in range(num_experts + 2):
        store_scalar_i32(starts + 4 * expert, np.int32(0))
    for pair in range(num_rows):
        place = starts + 4 * (load_scalar_i32(experts + 4 * pair) + 2)
        store_scalar_i32(place, np.int32(load_scalar_i32(place) + 1))
    for place in range(starts + 8, starts + 4 * (num_experts + 2), 4):
        store_scalar_i32(place, np.int32(load_scalar_i32(place) + load_scalar_i32(place - 4)))
    for pair in range(num_rows):
        place = starts + 4 * (load_scalar_i32(experts + 4 * pair) + 1)
        row = load_scalar_i32(place)
        store_scalar_i32(rows + 4 * pair, row)
        store_scalar_i32(place, np.int32(row + 1))


@kernel
def expert_products(matrix, inputs, one_input, out, out_width, routes, max_rows, num_experts, thread, num_threads):
    """out[row] = matrix of the row's expert * input[row], for this thread's part of every expert's panels.

    matrix: a MATRIX record of the first expert, which the others follow; inputs: addresses of values, codes and factors
    of the rows; one_input: all rows have the same one, that of a single token; out: f32, rows of out_width values.
    """
    values, codes, factors = inputs
    _, _, _, starts = routes_at(routes, max_rows)
    num_panels, num_columns, panel_bytes = matrix.num_panels, matrix.num_columns, matrix.panel_bytes
    first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
    for expert in range(num_experts):
        row, end = np.int64(load_scalar_i32(starts + 4 * expert)), np.int64(load_scalar_i32(starts + 4 * expert + 4))
        if row < end:
            source = 0 if one_input else row * num_columns
            call(matrix.product, (
                matrix.panels + expert * num_panels * panel_bytes, panel_bytes, num_columns, values + 4 * source,
                codes + source, factors + source // BLOCK * FACTOR_BYTES, out + 4 * row * out_width, 4 * out_width,
                np.int64(0), end - row, first, last,
            ))  # fmt: skip


@native("iiiiiiiii")
def add_experts(outputs, routes, max_rows, num_tokens, num_used, out, width, first, last):
    """out[token] += sum over ranks of weight * outputs[row], for the columns first to last, multiples of 16."""
    _, weights, rows, _ = routes_at(routes, max_rows)
    for token in range(num_tokens):
        target, pair = out + 4 * token * width, 4 * token * num_used
        for column in range(4 * first, 4 * last, VECTOR):
            total = pick(zeros(1), 0)
            for rank in range(pair, pair + 4 * num_used, 4):
                row = np.int64(load_scalar_i32(rows + rank))
                total = fma(splat(load_scalar(weights + rank)), load(outputs + 4 * row * width + column), total)
            store(target + column, load(target + column) + total)


NATIVES = (route, add_experts)
