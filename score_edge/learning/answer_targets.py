"""How likely the frozen model finds each answer token when it sees every visual token: what an adapter learns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from score_edge.errors import ScoreEdgeError
from score_edge.learning.adapter import Adapter
from score_edge.learning.curriculum import Scene
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.tensor_file import read_tensors, write_tensors
from score_edge.learning.text_decoder import TextDecoder

TOP = 64  # likeliest tokens whose probability is kept; all others share one


@dataclass(frozen=True, slots=True)
class Targets:
    """The distributions behind M tokens.

    Attributes:
        ids: (M, K) int64, the likeliest tokens.
        known: (M, K) float32, their log-probabilities.
        rest: (M,) float32, the log-probability of any other.
    """

    ids: torch.Tensor
    known: torch.Tensor
    rest: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> "Targets":
        """From (M, V) logits, V above K."""
        known, ids = logits.float().log_softmax(-1).topk(min(TOP, logits.shape[-1] - 1))
        return Targets(ids, known, _others(logits, ids))

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """(M,) KL divergence in nats of what (M, V) logits say from these."""
        ids = self.ids.to(logits.device)
        known, rest = self.known.to(logits.device), self.rest.to(logits.device)
        said = logits.float().log_softmax(-1).gather(-1, ids)
        of_known = (known.exp() * (known - said)).sum(-1)
        return of_known + rest.exp() * (rest - _others(logits, ids))


def _others(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(M,) log-probability of every token but these."""
    logits = logits.float()
    return logits.scatter(-1, ids, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)


class Teacher:
    """The targets of every clip, computed once and kept beside its features.

    Args:
        features: of the clips.
        model: lays prompts out.
        decoder: answers.
        adapter: beside it, switched off meanwhile.
    """

    def __init__(self, features: Features, model: FrozenModel, decoder: TextDecoder, adapter: Adapter) -> None:
        self._features, self._model, self._decoder, self._adapter = features, model, decoder, adapter

    def path(self, scene: Scene) -> Path:
        """Where a scene's file is or will be; other weights have other files."""
        return self._features.path(scene).with_suffix(f".{self._decoder.fingerprint}.safetensors")

    @torch.no_grad()
    def prepare(self, scene: Scene) -> None:
        """Make a scene's file where it is missing; its features are there.

        Raises:
            ScoreEdgeError: what it says is not finite.
        """
        path = self.path(scene)
        if path.exists():
            return
        clip = self._features.read(scene)
        prompt = self._model.prompt(clip, np.ones(clip.tokens.shape[:2], np.bool_))
        with self._adapter.off():
            targets = Targets.of(self._decoder.logits(prompt))
        if not (targets.known.isfinite().all() and targets.rest.isfinite().all()):
            raise ScoreEdgeError(f"what the model answers about {scene.name} is not finite", "learn with --device cpu")
        write_tensors(path, {"ids": targets.ids, "known": targets.known, "rest": targets.rest})

    def read(self, scene: Scene) -> Targets:
        """The targets of a scene that was prepared."""
        return Targets(*read_tensors(self.path(scene), ("ids", "known", "rest")))
