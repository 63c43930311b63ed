from router.observe.histogram import Histogram


def test_buckets_are_cumulative_and_a_bound_belongs_below() -> None:
    histogram = Histogram("a_seconds", "A.", "model_name", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.labels("m").observe(value)
    histogram.labels("other")
    samples = {(sample.name, *sample.labels.values()): sample.value for sample in histogram.family().samples}
    assert samples[("a_seconds_bucket", "m", "0.1")] == 2
    assert samples[("a_seconds_bucket", "m", "1.0")] == 4
    assert samples[("a_seconds_bucket", "m", "+Inf")] == samples[("a_seconds_count", "m")] == 5
    assert samples[("a_seconds_sum", "m")] == 8.65
    assert samples[("a_seconds_count", "other")] == 0
