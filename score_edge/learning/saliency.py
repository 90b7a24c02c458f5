"""How much each visual token matters to each answer: what a policy that knows the question learns, without labels.

The frozen model sees every token of a clip. Its saliency map (Simonyan et al. 2013, arXiv 1312.6034; here of tokens in
place of pixels) says how much a small change of each one would change how likely it finds the answer.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from score_edge.errors import ScoreEdgeError
from score_edge.learning.curriculum import Scene
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.tensor_file import read_tensors, write_tensors
from score_edge.learning.text_decoder import TextDecoder


@dataclass(frozen=True, slots=True)
class SalientClip:
    """A clip of n = T * N visual tokens with its saliency maps.

    Attributes:
        clip: its tokens.
        saliency: (Q, n) float32, for each question; a row's sum is 1.
        words: (Q, D) float32, see `FrozenModel.words`.
    """

    clip: PreparedClip
    saliency: torch.Tensor
    words: torch.Tensor


class SaliencyMaps:
    """Those of every clip, computed once and kept beside its features.

    Args:
        features: of the clips.
        model: lays prompts out, and knows the words.
        decoder: the language model with gradients.
    """

    def __init__(self, features: Features, model: FrozenModel, decoder: TextDecoder) -> None:
        self._features, self._model, self._decoder = features, model, decoder

    def path(self, scene: Scene) -> Path:
        """Where a scene's file is or will be; other weights have other files."""
        return self._features.path(scene).with_suffix(f".{self._decoder.fingerprint}.saliency.safetensors")

    def prepare(self, scene: Scene) -> None:
        """Make a scene's file where it is missing; its features are there.

        Raises:
            ScoreEdgeError: gradients that are zero or not finite.
        """
        path = self.path(scene)
        if path.exists():
            return
        clip = self._features.read(scene)
        steps, per_step = clip.tokens.shape[:2]
        prompt = self._model.prompt(clip, np.ones((steps, per_step), np.bool_))
        found = self._decoder.gradients(prompt)[:, : steps * per_step].cpu()  # a family's newline rows stand last
        total = found.sum(dim=1, keepdim=True)
        if not (total.isfinite().all() and (total > 0).all()):
            raise ScoreEdgeError(
                f"the gradients of what the model answers about {scene.name} are zero or not finite",
                "learn with --device cpu",
            )
        write_tensors(path, {"saliency": found / total, "words": self._model.words([qa.question for qa in clip.asked])})

    def read(self, scene: Scene) -> SalientClip:
        """A scene that was prepared."""
        return SalientClip(self._features.read(scene), *read_tensors(self.path(scene), ("saliency", "words")))
