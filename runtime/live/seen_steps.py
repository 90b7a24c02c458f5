"""Steps that were seen and wait to be remembered."""

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from score_edge.runtime.live.cameras import Camera
from score_edge.runtime.live.perception import Seen, Unseen

Step: TypeAlias = tuple[Camera, Seen | Unseen | None]
"""None: the camera's source has ended."""


class SeenSteps:
    """A queue, oldest first; whoever uses it from several threads locks it."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def put(self, camera: Camera, seen: Seen | Unseen | None) -> None:
        """Let one more wait."""
        self._steps.append((camera, seen))
        camera.waiting += 1

    def take(self, but: Camera | None = None) -> Step | None:
        """The one that has waited longest, of any camera `but` one, and it waits no longer."""
        for index, (camera, _) in enumerate(self._steps):
            if camera is not but:
                found = self._steps[index]
                del self._steps[index]
                camera.waiting -= 1
                return found
        return None

    def of(self, camera: Camera) -> Iterator[Seen | Unseen]:
        """Those of one camera."""
        return (seen for owner, seen in self._steps if owner is camera and seen is not None)

    def drop(self, camera: Camera) -> None:
        """Forget those of a camera."""
        self._steps = deque(step for step in self._steps if step[0] is not camera)
