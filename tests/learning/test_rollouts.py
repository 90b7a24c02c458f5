import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.export.policy_graph import LIMIT, PolicyNetwork  # noqa: E402
from score_edge.learning.rewards import standardise  # noqa: E402
from score_edge.learning.rollouts import (  # noqa: E402
    draw_masks,
    draw_rate,
    generator,
    group_loss,
    log_probability,
    rate_bias,
)

erf = np.vectorize(math.erf)


def numpy_gradient(policy: PolicyNetwork, tokens, previous, bias, masks, advantages) -> list[np.ndarray]:
    """d loss / d (W1, b1, W2, b2) in float64, written down by hand."""
    first, _, second = policy.layers
    w1, b1, w2, b2 = (p.detach().numpy().astype(np.float64) for p in (*first.parameters(), *second.parameters()))
    state = np.concatenate([tokens, tokens - previous], axis=1)
    x = (state - policy.mean.numpy()) * policy.scale.numpy()
    u = x @ w1.T + b1
    phi = (1 + erf(u / np.sqrt(2))) / 2
    raw = (u * phi) @ w2[0] + b2[0]
    logits = raw / (1 + np.abs(raw) / LIMIT) + bias
    p = 1 / (1 + np.exp(-logits))
    k, n = masks.shape
    to_logits = -(advantages[:, None] * (masks - p)).sum(axis=0) / (k * n)
    to_raw = to_logits / (1 + np.abs(raw) / LIMIT) ** 2
    to_u = to_raw[:, None] * w2[0] * (phi + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi))
    return [to_u.T @ x, to_u.sum(axis=0), (to_raw @ (u * phi))[None], to_raw.sum(keepdims=True)]


def test_the_gradient_of_the_group_loss_is_the_policy_gradient():
    torch.manual_seed(0)
    policy = PolicyNetwork(5, hidden=7).double()
    policy.mean.normal_()
    policy.scale.uniform_(0.5, 2)
    tokens, previous = torch.randn(2, 11, 5, dtype=torch.float64)
    masks = torch.rand(4, 11) < 0.4
    advantages = torch.tensor([1.3, -0.2, 0.0, -1.1], dtype=torch.float64)
    group_loss(policy.logits(tokens, previous) - 0.7, masks, advantages).backward()
    expected = numpy_gradient(policy, tokens.numpy(), previous.numpy(), -0.7, masks.numpy(), advantages.numpy())
    for parameter, gradient in zip(policy.parameters(), expected, strict=True):
        assert np.allclose(parameter.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


def test_log_probability_is_that_of_bernoulli_draws():
    logits, mask = np.array([-2.0, 0.5, 3.0]), np.array([True, False, True])
    p = 1 / (1 + np.exp(-logits))
    expected = np.log(np.where(mask, p, 1 - p)).mean()
    assert log_probability(torch.tensor(logits), torch.tensor(mask)[None]).item() == pytest.approx(expected)


def test_a_rewarded_mask_becomes_likelier():
    logits = torch.zeros(6, requires_grad=True)
    masks = torch.tensor([[True, True, False, False, False, False], [False, False, True, True, False, False]])
    group_loss(logits, masks, torch.tensor([1.0, -1.0])).backward()
    assert (logits.grad[:2] < 0).all() and (logits.grad[2:4] > 0).all() and (logits.grad[4:] == 0).all()


def test_several_groups_are_the_mean_of_each():
    logits, masks, earned = torch.randn(3, 11), torch.rand(3, 4, 11) < 0.4, torch.randn(3, 4)
    each = [group_loss(*group) for group in zip(logits, masks, map(standardise, earned), strict=True)]
    assert torch.allclose(group_loss(logits, masks, standardise(earned)), torch.stack(each).mean(), atol=1e-6)


@pytest.mark.parametrize("rate", [0.04, 0.5])
def test_the_bias_brings_a_clip_to_its_rate(rate):
    logits = torch.randn(500, generator=generator(1)) * 3
    assert torch.sigmoid(logits + rate_bias(logits, rate)).mean().item() == pytest.approx(rate, abs=1e-4)


def test_each_row_of_a_batch_has_a_bias_of_its_own():
    logits = torch.randn(3, 200, generator=generator(1))
    rates = torch.tensor([[0.01], [0.05], [0.3]])
    alone = [rate_bias(row, rate.item()) for row, rate in zip(logits, rates, strict=True)]
    assert torch.allclose(rate_bias(logits, rates), torch.stack(alone), atol=1e-4)


def test_what_the_bias_undoes_has_no_gradient():
    logits = (torch.randn(500, generator=generator(1)) * 3).requires_grad_()
    torch.sigmoid(logits + rate_bias(logits, 0.1)).mean().backward()
    assert logits.grad.abs().max() < 1e-6
    logits.grad = None
    masks = draw_masks(logits.detach() + 1.0, 8, generator(2))  # all keep far more than the rate
    group_loss(logits + rate_bias(logits, 0.1), masks, torch.linspace(-1, 1, 8)).backward()
    assert logits.grad.sum().abs() < 1e-6  # no push on all of them alike
    assert logits.grad.abs().sum() > 1e-4


def test_rates_are_log_uniform():
    rates = np.array([draw_rate(0.05, 0.5, generator(i)) for i in range(400)])
    assert rates.min() >= 0.05 and rates.max() <= 0.5
    assert abs(np.mean(rates < math.sqrt(0.05 * 0.5)) - 0.5) < 0.08


def test_masks_follow_the_probabilities_and_are_never_empty():
    logits = torch.tensor([4.0, 0.0, -4.0])
    share = draw_masks(logits, 4000, generator(3)).float().mean(dim=0)
    assert torch.allclose(share, torch.sigmoid(logits), atol=0.03)
    assert draw_masks(torch.full((9,), -20.0), 5, generator(0)).any(dim=1).all()


def test_the_same_place_in_a_run_draws_the_same_and_another_draws_otherwise():
    logits = torch.zeros(40)
    first, again, other = (draw_masks(logits, 3, generator(0, 1, step, 2)) for step in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
