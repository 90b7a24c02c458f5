"""What a policy or an adapter learns from."""

from dataclasses import dataclass
from pathlib import Path

from score_edge.bundle.manifest import Vision
from score_edge.errors import ScoreEdgeError
from score_edge.learning.curriculum import Scene, footage_scenes, image_scenes, world_scenes, world_stills
from score_edge.reference import world


@dataclass(frozen=True, slots=True)
class Data:
    """What is learned from.

    Attributes:
        videos: folder of footage; None takes the reference world.
        questions: JSON lines about it; None asks open questions and takes the unpruned model's own answers.
        images: folder of stills for stage 1 of a policy; None takes the world's, and with footage no stage 1 at all.
        clip_steps: encoder steps of a clip; a longer video is sampled thinner.
        scenes: different clips of the world, or pseudo-videos of the images.
        cache_mb: most MiB of visual tokens to keep on disk, per stage.
        worlds: regimes of the world, in turn.
    """

    videos: Path | None = None
    questions: Path | None = None
    images: Path | None = None
    clip_steps: int = 16
    scenes: int = 1000
    cache_mb: int = 1024
    worlds: tuple[str, ...] = ("plain",)

    def moving(self, vision: Vision) -> list[Scene]:
        """Clips in which things move.

        Raises:
            ScoreEdgeError: questions about no videos, no video in the folder, a broken question file.
        """
        if self.questions and not self.videos:
            raise ScoreEdgeError("questions without videos", "name the folder they are about with --videos")
        if self.videos:
            return footage_scenes(self.videos, self.questions, self.clip_steps, vision.frames_per_step, vision.fps)
        return world_scenes(self.scenes, self._of_world(vision), regimes=self.worlds)

    def stills(self, vision: Vision) -> list[Scene]:
        """Pseudo-videos; none where footage comes without images.

        Raises:
            ScoreEdgeError: no folder of images, or less than two in it.
        """
        if self.images:
            return image_scenes(self.images, self.scenes, self.clip_steps, vision.frames_per_step, vision.fps)
        return [] if self.videos else world_stills(self.scenes // 2 + 1, self._of_world(vision))

    def _of_world(self, vision: Vision) -> int:
        """Steps of the world that are as many frames: the bundle's steps may have more or fewer."""
        return self.clip_steps * vision.frames_per_step // world.FRAMES_PER_STEP
