import pytest

from score_edge.profiling.figures import Figure, compare, percentile


def test_figures_of_samples():
    figure = Figure.of([3.0, 1.0, 2.0, 4.0, 100.0])
    assert (figure.n, figure.median) == (5, 3.0)
    assert figure.p90 == pytest.approx(61.6) and figure.p99 == pytest.approx(96.16)
    assert figure.std == pytest.approx(43.6, abs=0.1)
    assert Figure.of([2.0]) == Figure(1, 2.0, 2.0, 2.0, None)


def test_percentiles_agree_with_numpy():
    numpy = pytest.importorskip("numpy")
    samples = numpy.random.default_rng(0).random(37).tolist()
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert percentile(samples, share) == pytest.approx(numpy.quantile(samples, share))


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ([1.00, 1.02, 1.01, 0.99], [1.01, 1.0, 1.02, 1.0], "no difference"),
        ([2.0, 2.1, 2.05, 1.95], [1.0, 1.02, 1.01, 0.99], "slower"),
        ([0.5, 0.51, 0.5, 0.49], [1.0, 1.02, 1.01, 0.99], "faster"),
        ([1.0, 3.0, 2.0, 4.0], [1.0, 4.0, 2.0, 2.9], "no difference"),  # 1.02 with a noise of its own size
        ([1.0], [2.0, 2.0], "measured once: nobody can tell"),
        ([1.0, 1.0, 1.0], [1.01, 1.01, 1.01], "no difference"),  # below the floor even without any spread
    ],
)
def test_verdicts(new, old, verdict):
    ratio = compare(Figure.of(new), Figure.of(old))
    assert ratio is not None and ratio.verdict == verdict


def test_equal_distributions_rarely_differ():
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(1)
    pairs = [
        compare(Figure.of(rng.normal(1, 0.1, 7).tolist()), Figure.of(rng.normal(1, 0.1, 7).tolist()))
        for _ in range(500)
    ]
    assert sum(bool(pair and pair.differs) for pair in pairs) < 50
