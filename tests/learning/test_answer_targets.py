"""The divergence that an adapter learns by, beside one over the whole vocabulary."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn import functional  # noqa: E402

from score_edge.learning.answer_targets import TOP, Targets  # noqa: E402


def exact(teacher: "torch.Tensor", student: "torch.Tensor") -> "torch.Tensor":
    pair = student.double().log_softmax(-1), teacher.double().log_softmax(-1)
    return functional.kl_div(*pair, log_target=True, reduction="none").sum(-1)


def logits(vocabulary: int, seed: int) -> "torch.Tensor":
    return 3 * torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vocabulary", [2, 9, TOP + 1])
def test_of_a_small_vocabulary_it_is_exact(vocabulary: int) -> None:
    teacher, student = logits(vocabulary, 0), logits(vocabulary, 1)
    found = Targets.of(teacher).divergence(student)
    assert (found.double() - exact(teacher, student)).abs().max() < 1e-5


def test_of_a_large_one_it_is_a_little_less_and_never_below_zero() -> None:
    """What is merged cannot be told apart any more."""
    teacher, student = logits(5000, 0), logits(5000, 1)
    found, whole = Targets.of(teacher).divergence(student), exact(teacher, student)
    assert ((found > 0) & (found <= whole + 1e-5)).all()
    assert Targets.of(teacher).divergence(teacher).abs().max() < 1e-5


def test_its_gradient_goes_to_the_teacher_and_is_a_number_where_the_rest_is_next_to_nothing() -> None:
    sure = torch.full((2, 300), -100.0)
    sure[:, 7] = 100.0
    targets = Targets.of(sure)
    student = torch.nn.Parameter(logits(300, 2)[:2])
    loss = targets.divergence(student).mean()
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()
    assert (student.grad[:, 7] < 0).all()
    assert targets.divergence(sure).abs().max() < 1e-5
