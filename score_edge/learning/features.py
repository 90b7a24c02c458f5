"""What the frozen model makes of every clip, computed once and kept on disk: reinforcement learning never encodes."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from score_edge.bundle.atomic import atomic_file, make_folder
from score_edge.errors import ScoreEdgeError
from score_edge.learning.curriculum import Scene
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.prepared_clip import PreparedClip, QuestionAnswer

_LOG = logging.getLogger(__name__)
LONGEST_ANSWER = 24  # tokens, of the unpruned model when its own answers are the targets


class Features:
    """A folder of clips, one safetensors file each.

    Args:
        folder: created with the first file.
        model: what encodes and answers; another model's files are never taken for this one's.
        limit: most bytes of tokens the scenes of one run may take.
    """

    def __init__(self, folder: Path, model: FrozenModel, limit: int) -> None:
        self._folder, self._model, self._limit = folder, model, limit

    def fit(self, scenes: Sequence[Scene], steps: int) -> list[Scene]:
        """As many of the scenes as the limit allows, from all over them; a warning says where some are left out.

        Args:
            scenes: wanted, in order.
            steps: longest clip, in encoder steps.

        Raises:
            ScoreEdgeError: not even one fits.
        """
        height, width = self._model.grid
        size = steps * height * width * self._model.width * 2  # float16
        if self._limit < size:
            raise ScoreEdgeError(
                f"one clip takes {size / 2**20:.1f} MiB, the cache may hold {self._limit / 2**20:.1f}",
                "raise --cache-mb or use shorter clips",
            )
        most = self._limit // size
        if len(scenes) <= most:
            return list(scenes)
        _LOG.warning(
            "%d of %d clips are learned from: for all of them raise --cache-mb to %d",
            most,
            len(scenes),
            -(-len(scenes) * size // 2**20),
        )
        return [scenes[i * len(scenes) // most] for i in range(most)]

    def path(self, scene: Scene) -> Path:
        """Where a scene's file is or will be."""
        key = hashlib.sha256(f"{self._model.fingerprint}\n{scene.name}".encode(errors="surrogatepass")).hexdigest()[:24]
        return self._folder / f"{key}.safetensors"

    def prepare(self, scenes: Sequence[Scene], on_clip: Callable[[], None] = lambda: None) -> None:
        """Make the files that are missing.

        Raises:
            ScoreEdgeError: an unreadable video; the model has no answer of its own; values that are not finite.
        """
        for scene in scenes:
            path = self.path(scene)
            if not path.exists():
                clip = self._make(scene)
                make_folder(self._folder)
                _write(path, clip)
            on_clip()

    def read(self, scene: Scene) -> PreparedClip:
        """A prepared clip."""
        path = self.path(scene)
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["clip"])
                asked = [QuestionAnswer(*pair) for pair in about["asked"]]
                clip = PreparedClip(file.get_tensor("tokens"), about["times"], asked, file.get_tensor("unpruned"))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ScoreEdgeError(f"{path} is damaged: {error}", "delete it; it is made again") from error
        return clip

    def _make(self, scene: Scene) -> PreparedClip:
        frames, asked = scene.load()
        model = self._model
        rows, times = model.encode(frames)
        tokens = torch.from_numpy(rows).half()
        if not tokens.isfinite().all():
            raise ScoreEdgeError(f"the visual tokens of {scene.name} do not fit into float16", "use an FP32 encoder")
        open_ended = [text for text, answer in asked if answer is None]
        own = dict(zip(open_ended, model.answer(tokens, times, open_ended, LONGEST_ANSWER), strict=True))
        known = [
            QuestionAnswer(text, own[text] if answer is None else answer)
            for text, answer in asked
            if answer is not None or own[text].strip()
        ]
        if not known:
            raise ScoreEdgeError(f"the unpruned model answers nothing to any question about {scene.name}")
        clip = PreparedClip(tokens, times, known, torch.zeros(len(known)))
        (unpruned,) = model.losses([clip], [torch.ones(tokens.shape[:2], dtype=torch.bool)])
        return PreparedClip(tokens, times, known, unpruned)


def _write(path: Path, clip: PreparedClip) -> None:
    about = {"times": clip.times, "asked": [(pair.question, pair.answer) for pair in clip.asked]}
    with atomic_file(path) as unfinished:
        save_file({"tokens": clip.tokens, "unpruned": clip.unpruned}, unfinished, {"clip": json.dumps(about)})
