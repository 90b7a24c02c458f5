import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning.curriculum import world_scenes  # noqa: E402
from score_edge.learning.decoder_weights import open_decoder  # noqa: E402
from score_edge.learning.features import Features  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.saliency import SaliencyMaps  # noqa: E402
from score_edge.reference import world  # noqa: E402

STEPS = 8


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    bundle = Bundle.open("reference")
    with FrozenModel(bundle, steps=STEPS, threads=1) as model:
        features = Features(tmp_path_factory.mktemp("features"), model, 1 << 30)
        yield SaliencyMaps(features, model, open_decoder(bundle, None, "cpu")), features


def test_what_matters_is_where_the_answer_is_seen(maps):
    """The world says where, and nobody told the model."""
    above = []
    for index, scene in enumerate(world_scenes(4, STEPS)):
        maps[1].prepare([scene])
        maps[0].prepare(scene)
        salient = maps[0].read(scene)
        clip = world.make_clip(world.TRAIN_SEED, index, STEPS)
        assert salient.saliency.shape == (len(clip.questions), salient.clip.tokens[..., 0].numel())
        assert salient.words.shape == (len(clip.questions), salient.clip.tokens.shape[2])
        assert torch.allclose(salient.saliency.sum(dim=1), torch.ones(len(clip.questions)), atol=1e-5)
        for question, saliency in zip(clip.questions, salient.saliency.numpy(), strict=True):
            seen = question.evidence.ravel()
            ranks = saliency.argsort().argsort()
            pairs = seen.sum() * (~seen).sum()
            above.append((ranks[seen].sum() - seen.sum() * (seen.sum() - 1) / 2) / pairs)
    assert np.mean(above) > 0.9  # area under the ROC curve


def test_gradients_that_say_nothing_are_refused(maps, monkeypatch):
    (scene,) = world_scenes(1, STEPS, start=9)
    maps[1].prepare([scene])
    monkeypatch.setattr(maps[0]._decoder, "gradients", lambda prompt: torch.zeros(7, 288))
    with pytest.raises(ScoreEdgeError, match="zero or not finite"):
        maps[0].prepare(scene)
    assert not maps[0].path(scene).exists()
