"""The measured limits are measurements of what they name."""

from bench import limits


def test_products_compile_and_count_what_they_multiply() -> None:
    found = limits.measure(1 << 20, 1)
    assert found.num_threads == 1
    assert found.read_bytes > 0
    assert found.products > 0


def test_every_lowering_reads_all_its_activations() -> None:
    for product in limits._PRODUCTS:
        text = limits._loop(product)
        assert text.count(f"load <{product.num_bytes} x i8>") == product.num_sums + 1
        assert limits._ACTIVATIONS % (product.num_bytes * product.num_sums) == 0


def test_every_thread_works_on_its_own_part() -> None:
    done: list[int] = []
    assert limits._rate([lambda: done.append(0), lambda: done.append(1)]) > 0
    assert set(done) == {0, 1}
