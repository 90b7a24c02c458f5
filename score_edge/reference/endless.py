"""The reference world without end: one scene after the other, each a clip whose every fact is known."""

from collections.abc import Iterator
from dataclasses import dataclass

from score_edge.core import Frame
from score_edge.reference import world


@dataclass(frozen=True, slots=True)
class EndlessWorld:
    """Scene after scene of one series; between them everything changes at once.

    Attributes:
        seed: of the series; the same seed is the same stream.
        scene_steps: encoder steps per scene.

    Example:
        >>> EndlessWorld(seed=7).scene(2).questions[0].text  # doctest: +SKIP
        'what color is the circle that moved?'
    """

    seed: int = world.TEST_SEED
    scene_steps: int = 16

    def scene(self, number: int) -> world.Clip:
        """Scene number 0, 1, 2, ... with its questions; their evidence counts steps from the scene's first."""
        return world.make_clip(self.seed, number, self.scene_steps)

    def frames(self) -> Iterator[Frame]:
        """Frames at the world's rate, for ever."""
        index, number = 0, 0
        while True:
            for image in self.scene(number).images:
                yield Frame(image, index / world.FPS, index)
                index += 1
            number += 1
