"""A frozen model made of arithmetic: of every token one number matters, and the answer needs the tokens with it."""

import dataclasses

import numpy as np
import torch

from score_edge.learning.curriculum import Scene
from score_edge.learning.prepared_clip import PreparedClip, QuestionAnswer

STEPS, TOKENS, WIDTH = 4, 16, 6


@dataclasses.dataclass
class PlantedModel:
    """CE falls with the share of important tokens kept; a token is important where its first number is above 1."""

    grid = (4, 4)
    width = WIDTH
    fingerprint = "planted"
    broken: bool = False

    def losses(self, clips, keeps):
        found = []
        for clip, keep in zip(clips, keeps, strict=True):
            important = clip.tokens[..., 0] > 1
            share = (keep & important).sum() / important.sum().clamp(min=1)
            found.append(torch.full((len(clip.asked),), torch.nan if self.broken else 2.0 * (1 - float(share))))
        return found


class PlantedFeatures:
    """Clips drawn from their scene's name."""

    def read(self, scene: Scene) -> PreparedClip:
        rng = np.random.default_rng(int(scene.name))
        tokens = rng.standard_normal((STEPS, TOKENS, WIDTH)).astype(np.float16)
        asked = [QuestionAnswer("a?", "b"), QuestionAnswer("c?", "d")]
        return PreparedClip(torch.from_numpy(tokens), [0.5 * t for t in range(STEPS)], asked, torch.zeros(2))


def scenes(start: int, count: int = 40) -> list[Scene]:
    def load():
        raise AssertionError("a prepared clip is never loaded")

    return [Scene(str(i), load) for i in range(start, start + count)]
