import hashlib
import struct

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from worker.cache.kv_cache import BlockPool, block_digest, chain
from worker.sequence import Sequence

BLOCK = 4


def make_sequence(tokens, shares_prefix=True) -> Sequence:
    return Sequence(tokens, (), 1000, shares_prefix=shares_prefix)


def compute(pool: BlockPool, sequence: Sequence, num_tokens: int | None = None) -> None:
    """What scheduler and engine do: blocks, computing, publishing."""
    num_tokens = sequence.num_tokens if num_tokens is None else num_tokens
    pool.grow(sequence, num_tokens)
    sequence.num_computed = num_tokens
    pool.publish(sequence)


def blocks_of(sequence: Sequence) -> list[int]:
    return sequence.blocks[: sequence.num_blocks].tolist()


def computed(pool: BlockPool, tokens, **options) -> Sequence:
    sequence = make_sequence(tokens, **options)
    pool.adopt(sequence, pool.match(sequence))
    compute(pool, sequence)
    return sequence


def test_a_sequence_gets_one_block_per_started_group_of_positions():
    pool = BlockPool(8, BLOCK)
    sequence = make_sequence(range(9))
    for num_tokens, num_blocks in ((1, 1), (4, 1), (5, 2), (9, 3)):
        pool.grow(sequence, num_tokens)
        assert sequence.num_blocks == num_blocks
    assert len(set(blocks_of(sequence))) == 3
    assert (pool.num_held, pool.num_free) == (3, 5)


def test_room_counts_held_free_and_cached_blocks():
    pool = BlockPool(4, BLOCK)
    pool.release(computed(pool, range(8)))
    sequence = make_sequence(range(100, 105))
    pool.grow(sequence, 5)
    assert (pool.num_free, pool.num_cached) == (0, 2)
    assert pool.room(sequence) == 16


def test_released_whole_blocks_are_cached_and_the_rest_is_free():
    pool = BlockPool(8, BLOCK)
    pool.release(computed(pool, range(10)))
    assert (pool.num_cached, pool.num_free, pool.num_held) == (2, 6, 0)


def test_a_sequence_with_the_same_beginning_adopts_its_blocks():
    pool = BlockPool(8, BLOCK)
    first = computed(pool, range(10))
    second = make_sequence([*range(8), 50, 51])
    matched = pool.match(second)
    assert matched == blocks_of(first)[:2]
    assert pool.num_unused(matched) == 0
    pool.adopt(second, matched)
    assert (second.num_computed, second.num_blocks, pool.num_held) == (8, 2, 3)
    pool.release(first)
    assert pool.num_held == 2
    pool.release(second)
    assert (pool.num_held, pool.num_cached) == (0, 2)


def test_the_last_token_is_always_left_to_compute():
    pool = BlockPool(8, BLOCK)
    computed(pool, range(8))
    assert len(pool.match(make_sequence(range(8)))) == 1
    assert len(pool.match(make_sequence(range(9)))) == 2


def test_equal_blocks_after_different_beginnings_are_different():
    pool = BlockPool(8, BLOCK)
    computed(pool, [1, 1, 1, 1, 7, 7, 7, 7])
    computed(pool, [2, 2, 2, 2, 8, 8, 8, 8])
    assert len(pool.match(make_sequence([2, 2, 2, 2, 7, 7, 7, 7, 0]))) == 1


def test_a_block_is_not_found_before_it_is_computed():
    pool = BlockPool(8, BLOCK)
    sequence = make_sequence(range(8))
    compute(pool, sequence, 7)
    pool.grow(sequence, 8)
    assert len(pool.match(make_sequence(range(9)))) == 1


def test_two_that_computed_the_same_share_what_comes_later():
    pool = BlockPool(8, BLOCK)
    first, second = make_sequence(range(4)), make_sequence(range(4))
    compute(pool, first)
    compute(pool, second)
    for token in range(4, 8):
        second.append(token)
    compute(pool, second)
    assert blocks_of(second)[0] == blocks_of(first)[0]  # it gave its copy back
    assert (pool.num_held, pool.num_free) == (2, 6)
    assert pool.match(make_sequence(range(9))) == blocks_of(second)
    pool.release(second)
    assert (pool.num_held, pool.num_cached, pool.num_free) == (1, 1, 6)


def test_a_sequence_that_shares_nothing_neither_finds_nor_offers():
    pool = BlockPool(8, BLOCK)
    private = computed(pool, range(9), shares_prefix=False)
    assert pool.match(make_sequence(range(9))) == []
    pool.release(private)
    assert pool.num_cached == 0
    computed(pool, range(9))
    assert pool.match(make_sequence(range(9), shares_prefix=False)) == []


def test_the_least_recently_used_prefix_is_evicted_first_and_from_its_end():
    pool = BlockPool(4, BLOCK)
    old, new = computed(pool, range(8)), computed(pool, range(50, 58))
    pool.release(old)
    pool.release(new)
    pool.grow(make_sequence(range(90, 94)), 4)
    assert len(pool.match(make_sequence(range(9)))) == 1
    assert len(pool.match(make_sequence(range(50, 59)))) == 2


def test_the_rest_of_an_evicted_prefix_is_not_found_under_a_reused_block():
    pool = BlockPool(3, BLOCK)
    first = computed(pool, [1, 1, 1, 1, 7, 7, 7, 7])
    pool.release(first)
    tail_holder = make_sequence([1, 1, 1, 1, 7, 7, 7, 7, 5])
    pool.adopt(tail_holder, pool.match(tail_holder))
    pool.release(tail_holder)
    everything = computed(pool, [2] * 12)
    pool.release(everything)
    assert pool.match(make_sequence([1, 1, 1, 1, 7, 7, 7, 7, 5])) == []
    assert len(pool.match(make_sequence([2] * 12))) == 2


def test_forgotten_blocks_are_free_and_never_found():
    pool = BlockPool(8, BLOCK)
    sequence = computed(pool, range(8))
    pool.release(sequence, forget=True)
    assert (pool.num_free, pool.num_cached) == (8, 0)
    assert pool.match(make_sequence(range(9))) == []


def test_forgetting_leaves_those_who_hold_the_same_blocks_alone():
    pool = BlockPool(8, BLOCK)
    first = computed(pool, range(8))
    second = computed(pool, range(9))
    pool.release(first, forget=True)
    assert pool.num_held == 3
    pool.release(second)
    assert (pool.num_held, pool.num_free) == (0, 8)


def test_what_follows_a_withdrawn_block_is_withdrawn_with_it():
    pool = BlockPool(8, BLOCK)
    shared, longer = computed(pool, range(4)), computed(pool, range(9))
    pool.release(shared, forget=True)
    assert pool.match(make_sequence(range(10))) == []
    pool.release(longer)
    assert (pool.num_free, pool.num_cached) == (8, 0)


def test_who_holds_a_withdrawn_block_offers_nothing_more():
    pool = BlockPool(8, BLOCK)
    shared, longer = computed(pool, range(4)), computed(pool, range(5))
    pool.release(shared, forget=True)
    again = computed(pool, range(4))
    for token in range(5, 8):
        longer.append(token)
    compute(pool, longer)
    assert pool.match(make_sequence(range(9))) == blocks_of(again)


def test_a_name_stands_for_all_tokens_from_the_first_on():
    tokens = make_sequence([1, 2, 3, 4, 5, 6, 7, 8]).tokens
    first = block_digest(b"", tokens[:4])
    assert block_digest(b"", tokens[:4]) == first != block_digest(b"", tokens[4:8])
    assert block_digest(first, tokens[4:8]) != block_digest(b"", tokens[4:8])
    assert chain(tokens[:7], 4) == [first] and chain(tokens[:8], 4) == [first, block_digest(first, tokens[4:8])]
    assert first == hashlib.blake2b(struct.pack("<4i", 1, 2, 3, 4), digest_size=32).digest()


def names_of(pool: BlockPool, tokens) -> list[bytes]:
    return list(pool.digests(make_sequence(tokens), len(tokens) // BLOCK))


def insert(pool: BlockPool, names: list[bytes]) -> list[tuple[int, int]]:
    """Puts a chain into the tree as far as there is room: the index and the block of each that it lacked."""
    held, filled = [], []
    for index, name in enumerate(names):
        is_known = name in pool
        if not pool.hold_next(names, held):
            break
        if not is_known:
            filled.append((index, held[-1]))
    pool.give_back(held)
    return filled


def test_inserted_blocks_are_found_like_computed_ones():
    pool = BlockPool(8, BLOCK)
    filled = insert(pool, names_of(pool, range(8)))
    assert [index for index, _ in filled] == [0, 1]
    assert pool.match(make_sequence(range(9))) == [block for _, block in filled]
    assert (pool.num_cached, pool.num_free) == (2, 6)


def test_inserting_adds_only_what_the_tree_lacks():
    pool = BlockPool(8, BLOCK)
    first = computed(pool, range(4))
    assert [index for index, _ in insert(pool, names_of(pool, range(8)))] == [1]
    assert pool.match(make_sequence(range(9)))[:1] == blocks_of(first)
    assert insert(pool, names_of(pool, range(8))) == []


def test_inserting_pushes_out_others_but_not_its_own_beginning_nor_what_is_held():
    pool = BlockPool(4, BLOCK)
    held = computed(pool, range(100, 104))
    pool.release(computed(pool, range(4)))
    pool.release(computed(pool, range(50, 58)))
    assert [index for index, _ in insert(pool, names_of(pool, range(20)))] == [1, 2]
    assert len(pool.match(make_sequence(range(21)))) == 3
    assert pool.num_held == 1 and len(pool.match(make_sequence(range(100, 105)))) == 1
    assert blocks_of(held) == pool.match(make_sequence(range(100, 105)))


def test_a_held_chain_is_not_pushed_out_and_is_cached_once_it_is_given_back():
    pool = BlockPool(4, BLOCK)
    pool.release(computed(pool, range(8)))
    names, held = names_of(pool, range(8)), []
    assert pool.hold_next(names, held) and pool.hold_next(names, held)
    pool.release(computed(pool, range(50, 58)))
    pool.release(computed(pool, range(70, 78)))
    assert pool.find(names) == held and (pool.num_held, pool.num_available) == (2, 2)
    pool.give_back(held)
    assert (pool.num_held, pool.num_cached) == (0, 4)
    pool.erase(names)
    assert pool.num_free == 2


def test_no_chain_goes_on_from_a_block_that_was_withdrawn():
    pool = BlockPool(4, BLOCK)
    sequence = computed(pool, range(4))
    names, held = names_of(pool, range(8)), []
    assert pool.hold_next(names, held)
    pool.release(sequence, forget=True)
    assert not pool.hold_next(names, held)
    pool.give_back(held)
    assert pool.num_free == 4


def test_erasing_frees_the_end_of_a_prefix_up_to_what_others_use():
    pool = BlockPool(8, BLOCK)
    pool.release(computed(pool, range(12)))
    pool.release(computed(pool, [*range(8), 90, 91, 92, 93]))
    pool.erase(names_of(pool, range(12)))
    assert len(pool.match(make_sequence(range(13)))) == 2
    assert len(pool.match(make_sequence([*range(8), 90, 91, 92, 93, 0]))) == 3
    holder = computed(pool, range(4))
    pool.erase(names_of(pool, [*range(8), 90, 91, 92, 93]))
    assert pool.match(make_sequence(range(13))) == blocks_of(holder)
    assert (pool.num_free, pool.num_cached) == (7, 0)


class PoolLife(RuleBasedStateMachine):
    """Any order of calls keeps every block in one state and every match true to its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, 2)
        self.alive: list[Sequence] = []
        self.chains: list[tuple[list[int], list[bytes], list[int]]] = []  # tokens, names, blocks held of them
        self.content: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to its end, as computed

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8), shares=st.booleans())
    def begin(self, tokens, shares):
        sequence = make_sequence(tokens, shares)
        matched = self.pool.match(sequence)
        for i, block in enumerate(matched):
            assert self.content[block] == tuple(tokens[: 2 * (i + 1)])
        self.pool.adopt(sequence, matched)
        self.alive.append(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def go_on(self, data):
        sequence = data.draw(st.sampled_from(self.alive))
        end = min(sequence.num_tokens, self.pool.room(sequence), sequence.num_computed + data.draw(st.integers(1, 4)))
        self.pool.grow(sequence, end)
        for i in range(sequence.num_computed // 2, -(-end // 2)):
            self.content[int(sequence.blocks[i])] = tuple(sequence.tokens[: min(end, 2 * (i + 1))].tolist())
        sequence.num_computed = end
        self.pool.publish(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), forget=st.booleans())
    def end(self, data, forget):
        sequence = data.draw(st.sampled_from(self.alive))
        self.alive.remove(sequence)
        self.pool.release(sequence, forget=forget)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=2, max_size=8))
    def begin_chain(self, tokens):
        self.chains.append((tokens, self.pool.digests(make_sequence(tokens), len(tokens) // 2), []))

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def hold_more(self, data):
        tokens, names, held = data.draw(st.sampled_from(self.chains))
        if len(held) < len(names):
            is_known = names[len(held)] in self.pool
            if self.pool.hold_next(names, held) and not is_known:
                self.content[held[-1]] = tuple(tokens[: 2 * len(held)])

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def end_chain(self, data):
        chain = data.draw(st.sampled_from(self.chains))
        self.chains.remove(chain)
        self.pool.give_back(chain[2])

    @rule(tokens=st.lists(st.integers(0, 1), min_size=2, max_size=8))
    def erase(self, tokens):
        self.pool.erase(self.pool.digests(make_sequence(tokens), len(tokens) // 2))

    @invariant()
    def leaves_are_evicted_before_what_they_grow_from(self):
        parents = {self.pool._nodes.get(self.pool._parents[block]) for block in self.pool._nodes.values()}
        seen = set()
        for block in self.pool._cached:
            children = {b for b in self.pool._nodes.values() if self.pool._parents[b] == self.pool._names[block]}
            assert children <= seen and (block in parents) is bool(children)
            seen.add(block)

    @invariant()
    def every_node_can_be_reached_from_the_first_token(self):
        for name, block in self.pool._nodes.items():
            assert self.pool._names[block] == name
            parent = self.pool._parents[block]
            assert not parent or parent in self.pool._nodes

    @invariant()
    def the_tree_is_told_as_it_is(self):
        names, parents = self.pool._nodes.keys(), {self.pool._parents[block] for block in self.pool._nodes.values()}
        digest = 0
        for name in names:
            digest ^= int.from_bytes(name[:8])
        assert (self.pool.num_nodes, self.pool.num_prefixes) == (len(names), len(names - parents))
        assert self.pool.digest == digest

    @invariant()
    def every_block_is_in_one_state(self):
        held = {block for sequence in self.alive for block in blocks_of(sequence)}
        held |= {block for _, _, chain in self.chains for block in chain}
        free, cached = set(self.pool._free), set(self.pool._cached)
        assert len(self.pool._free) == len(free)
        assert not held & free and not held & cached and not free & cached
        assert held | free | cached == set(range(6))
        assert (self.pool.num_held, self.pool.num_free, self.pool.num_cached) == (len(held), len(free), len(cached))

    @invariant()
    def what_was_computed_is_still_there(self):
        for sequence in self.alive:
            for i in range(sequence.num_computed // 2):
                assert self.content[int(sequence.blocks[i])] == tuple(sequence.tokens[: 2 * (i + 1)].tolist())
        for tokens, _, held in self.chains:
            assert all(self.content[block] == tuple(tokens[: 2 * (i + 1)]) for i, block in enumerate(held))


def test_blocks_are_free_cached_or_held_whatever_happens_in_whatever_order():
    run_state_machine_as_test(PoolLife)


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 500])
def test_a_sequence_keeps_its_tokens_as_it_grows(num_tokens):
    sequence = make_sequence(range(num_tokens))
    for token in range(num_tokens, num_tokens + 100):
        sequence.append(token)
    assert sequence.tokens[: sequence.num_tokens].tolist() == list(range(num_tokens + 100))
    assert (sequence.num_completion_tokens, sequence.num_uncomputed) == (100, num_tokens + 100)
