"""Barriers and parked threads: nobody is left behind, nobody runs ahead, all end on close."""

import ctypes
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import compiled
from worker.kernels.jit import call, entry
from worker.kernels.pool import (
    GENERATION,
    IDLE_SLEEPERS,
    SLEEPERS,
    ThreadPool,
    barrier,
    num_participants,
    start_step,
    wait_for_step,
)

ROUNDS = 300
_board = types.Array(types.int64, 2, "C")  # (threads, 8): rounds done, times another was elsewhere, ended

every_number = pytest.mark.parametrize("num_threads", [1, 2, 3, 4])


@entry(types.void(types.int64, types.int64, types.int64, types.int64, types.int64, _board))
def meet(control, barrier_address, thread, num_threads, num_rounds, board):
    """Counts in its row of the board, meets the others, and looks whether they are in the same round."""
    for number in range(1, num_rounds + 1):
        board[thread, 0] = number
        call(barrier_address, (control, num_threads))
        for other in range(num_threads):
            board[thread, 1] += board[other, 0] != number
        call(barrier_address, (control, num_threads))


@entry(types.void(types.int64, types.int64, types.int64, _board))
def park(control, barrier_address, thread, board):
    """A parked thread: joins every step that it has a part in, notes its end."""
    ticket = np.int32(0)
    while True:
        ticket = wait_for_step(control, ticket)
        if ticket < 0:
            board[thread, 2] += 1
            return
        participants = num_participants(ticket)
        if thread < participants:
            board[thread, 0] += 1
            call(barrier_address, (control, participants))


@entry(types.void(types.int64, types.int64, types.int64, _board))
def step(control, barrier_address, num_threads, board):
    """Thread 0's part."""
    start_step(control, num_threads)
    board[0, 0] += 1
    call(barrier_address, (control, num_threads))


def address_of_barrier() -> int:
    barrier.compile()
    return barrier.address


def word(pool: ThreadPool, offset: int) -> int:
    return ctypes.c_int32.from_address(pool.control + offset).value


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def parked_pool(num_threads: int, board: np.ndarray) -> ThreadPool:
    address, parking = address_of_barrier(), compiled(park)
    return ThreadPool(num_threads, lambda control, thread: parking(control, address, thread, board))


@every_number
def test_no_thread_passes_a_barrier_before_all_have_come(num_threads):
    pool = ThreadPool(1, lambda control, thread: None)  # only for its control words
    board, address = np.zeros((num_threads, 8), np.int64), address_of_barrier()
    together = compiled(meet)
    threads = [
        threading.Thread(target=together, args=(pool.control, address, thread, num_threads, ROUNDS, board), daemon=True)
        for thread in range(num_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(board[:, 0], ROUNDS)
    assert not board[:, 1].any()
    assert word(pool, GENERATION) == 2 * ROUNDS and word(pool, SLEEPERS) == 0
    pool.close()


def test_threads_asleep_at_a_barrier_are_woken_by_the_last_one():
    pool = ThreadPool(1, lambda control, thread: None)
    board, address = np.zeros((3, 8), np.int64), address_of_barrier()
    together = compiled(meet)
    early = [
        threading.Thread(target=together, args=(pool.control, address, thread, 3, 1, board), daemon=True)
        for thread in (1, 2)
    ]
    for thread in early:
        thread.start()
    wait_until(lambda: word(pool, SLEEPERS) == 2)
    assert board[0, 0] == 0
    together(pool.control, address, 0, 3, 1, board)
    for thread in early:
        thread.join()
    np.testing.assert_array_equal(board[:, :2], [[1, 0]] * 3)
    pool.close()


@every_number
def test_every_parked_thread_computes_every_step_once(num_threads):
    board = np.zeros((num_threads, 8), np.int64)
    pool = parked_pool(num_threads, board)
    address = address_of_barrier()
    for number in range(1, ROUNDS + 1):
        compiled(step)(pool.control, address, num_threads, board)
        np.testing.assert_array_equal(board[:, 0], number)
    pool.close()
    np.testing.assert_array_equal(board[:, 0], ROUNDS)


def test_steps_of_all_sizes_are_computed_by_their_threads_alone():
    board = np.zeros((4, 8), np.int64)
    pool = parked_pool(4, board)
    sizes = np.random.default_rng(0).integers(2, 5, ROUNDS)
    expected = np.zeros(4, np.int64)
    for size in sizes:
        compiled(step)(pool.control, address_of_barrier(), size, board)
        expected[:size] += 1
        np.testing.assert_array_equal(board[:size, 0], expected[:size])
    pool.close()
    np.testing.assert_array_equal(board[:, 0], expected)


def test_threads_asleep_between_steps_are_woken_for_the_next():
    board = np.zeros((4, 8), np.int64)
    pool = parked_pool(4, board)
    for number in (1, 2):
        wait_until(lambda: word(pool, IDLE_SLEEPERS) == 3)
        compiled(step)(pool.control, address_of_barrier(), 4, board)
        np.testing.assert_array_equal(board[:, 0], number)
    pool.close()


@every_number
@pytest.mark.parametrize("asleep", [False, True])
def test_close_ends_all_parked_threads(num_threads, asleep):
    before = set(threading.enumerate())
    board = np.zeros((num_threads, 8), np.int64)
    pool = parked_pool(num_threads, board)
    assert len(set(threading.enumerate()) - before) == num_threads - 1
    if asleep:
        wait_until(lambda: word(pool, IDLE_SLEEPERS) == num_threads - 1)
    pool.close()
    assert set(threading.enumerate()) <= before
    np.testing.assert_array_equal(board[1:, 2], 1)
    assert not board[:, 0].any()


def test_control_words_lie_in_cache_lines_of_their_own():
    pool = ThreadPool(1, lambda control, thread: None)
    assert pool.control % 64 == 0
    pool.close()
