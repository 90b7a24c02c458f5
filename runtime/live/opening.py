"""The text in front of a stream's steps. It may name how many they are and how long the clip is (SmolVLM2)."""

from score_edge.runtime.language.layout import Layout

_OFF = 4
"""The number of steps may be off by a quarter."""
_AHEAD = 2
"""The clip may be named as twice as long as it is: it grows into it."""


class Opening:
    """What it says, and whether that is still true.

    A cache whose first words change is prefilled again. While a stream is a clip as `ask` takes it, the text is exactly
    that clip's. Later it is a little wide: it names the steps held when it was written and twice the time since the
    oldest of them, and stays as long as their number is off by a quarter at most and that time has not passed.
    So it changes once in about as many steps as are held.

    Args:
        layout: of the model's family.

    Attributes:
        text: as it was written last.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self.text = layout, ""
        self._steps, self._seconds = 0, 0.0

    def write(self, steps: int, seconds: float, *, exactly: bool) -> str:
        """Name so many steps and so long a clip, or a longer one; returns the text."""
        self._steps, self._seconds = max(1, steps), seconds if exactly else _AHEAD * seconds
        self.text = self._layout.opening(self._steps, self._seconds)
        return self.text

    def holds(self, steps: int, seconds: float, *, exactly: bool) -> bool:
        """Whether the text is true of so many steps and so long a clip."""
        if self._layout.opening(max(1, steps), seconds) == self.text:
            return True
        return not exactly and abs(steps - self._steps) * _OFF <= self._steps and seconds <= self._seconds
