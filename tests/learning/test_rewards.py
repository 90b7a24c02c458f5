import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.learning.rewards import (  # noqa: E402
    STD_FLOOR,
    product_advantage,
    quality,
    sparsity,
    split_advantage,
    standardise,
)


def z(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(values.std(), STD_FLOOR)


def test_quality_is_the_gain_in_probability_of_the_answers():
    loss, unpruned = np.array([[0.1, 2.0], [0.5, 0.3]]), np.array([0.2, 1.0])
    expected = [np.mean([np.exp(-a) - np.exp(-b) for a, b in zip(row, unpruned, strict=True)]) for row in loss]
    assert np.allclose(quality(torch.tensor(loss), torch.tensor(unpruned)), expected)
    assert quality(torch.tensor(unpruned)[None], torch.tensor(unpruned)).item() == 0


def test_sparsity_is_the_share_of_dropped_tokens():
    assert sparsity(torch.tensor([[True, False, False, False], [True] * 4])).tolist() == [0.75, 0.0]


def test_split_advantage_is_its_formula():
    rng = np.random.default_rng(0)
    good, sparse = rng.normal(0, 0.2, 12), rng.uniform(0.5, 0.95, 12)
    held = good >= -0.02
    assert 2 < held.sum() < 10
    expected = z(good)
    expected[held] += 0.3 * z(sparse[held])
    found = split_advantage(torch.tensor(good), torch.tensor(sparse), weight=0.3, slack=0.02)
    assert np.allclose(found, expected)


def test_dropping_more_never_pays_where_quality_was_lost():
    good = torch.tensor([0.0, 0.0, -0.5, -0.5])
    few, many = torch.tensor([0.5, 0.6, 0.5, 0.6]), torch.tensor([0.5, 0.6, 0.9, 0.99])
    apart = [split_advantage(good, sparse, weight=1.0, slack=0.02) for sparse in (few, many)]
    assert torch.equal(*apart)
    assert apart[0][1] > apart[0][0] > apart[0][2] == apart[0][3]


def test_one_rollout_that_held_has_nobody_to_be_sparser_than():
    good, sparse = torch.tensor([0.1, -0.4, -0.5]), torch.tensor([0.9, 0.5, 0.5])
    assert torch.equal(split_advantage(good, sparse, weight=1.0, slack=0.02), standardise(good))


def test_product_advantage_is_its_formula():
    good, sparse = np.array([0.1, -0.3, 0.0]), np.array([0.9, 0.8, 0.5])
    assert np.allclose(product_advantage(torch.tensor(good), torch.tensor(sparse)), z(good * sparse))


def test_noise_is_not_blown_up_to_advantages():
    assert standardise(torch.tensor([0.0, 1e-4])).abs().max() < 0.01
