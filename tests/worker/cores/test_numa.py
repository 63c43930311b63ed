"""Which processors compute threads get on a machine of several nodes."""

import logging
import os

import pytest

from worker.cores import numa
from worker.cores.numa import place, placement, read_nodes, usable_nodes

NODES = [{0, 1, 2, 3}, {4, 5, 6, 7}]


@pytest.fixture
def folder(tmp_path):
    for name, processors in {"node0": "0-3\n", "node1": "4,6-7\n", "node2": "\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(processors)
    (tmp_path / "possible").write_text("0-2")
    return tmp_path


def test_nodes_are_read_as_the_kernel_lists_them(folder):
    assert read_nodes(folder) == {0: {0, 1, 2, 3}, 1: {4, 6, 7}, 2: set()}


def test_nodes_without_a_usable_processor_do_not_count():
    assert usable_nodes({0: {0, 1}, 1: {2, 3}, 2: set()}, {1, 2, 9}) == [{1}, {2}]
    assert usable_nodes({0: {0, 1}, 1: {2, 3}}, {0, 1}) == [{0, 1}]


def test_threads_are_distributed_over_the_nodes_in_turn():
    assert placement("distribute", NODES, 0, 3) == [NODES[0], NODES[1], NODES[0]]


def test_threads_are_isolated_on_the_node_of_the_process():
    assert placement("isolate", NODES, 5, 2) == [NODES[1], NODES[1]]


def test_threads_are_bound_by_their_ids(monkeypatch):
    bound = {}
    monkeypatch.setattr(numa, "read_nodes", lambda folder: dict(enumerate(NODES)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: NODES[0] | NODES[1])
    monkeypatch.setattr(os, "sched_setaffinity", bound.__setitem__)
    place("distribute", [11, 12])
    assert bound == {11: NODES[0], 12: NODES[1]}


@pytest.mark.parametrize("policy", ["distribute", "isolate", "numactl"])
def test_one_node_is_left_as_it_is_and_that_is_said(monkeypatch, caplog, policy):
    monkeypatch.setattr(numa, "read_nodes", lambda folder: {0: os.sched_getaffinity(0)})
    monkeypatch.setattr(os, "sched_setaffinity", None)
    with caplog.at_level(logging.INFO):
        place(policy, [os.getpid()])
    (record,) = caplog.records
    assert f"--numa {policy}" in record.getMessage()
