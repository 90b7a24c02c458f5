import pytest

from score_edge.runtime.language.number_words import in_words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (1, "one"),
        (12, "twelve"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (132, "one hundred and thirty-two"),
        (1000, "one thousand"),
        (1024, "one thousand and twenty-four"),
        (2118, "two thousand, one hundred and eighteen"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words
    try:
        from num2words import num2words
    except ImportError:
        return
    assert in_words(number) == num2words(number)
