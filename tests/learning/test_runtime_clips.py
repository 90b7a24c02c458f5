import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.learning.rank_farm import RULES  # noqa: E402
from score_edge.learning.reference_bundle import read_reference_bundle  # noqa: E402
from score_edge.learning.runtime_clips import LEARNED, RuntimeClips  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.reference.clip_farm import Wanted  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402
from score_edge.selection.budget import clip_top_k  # noqa: E402

STEPS, COUNTS = 6, (24, 54)


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("gguf")
    words = read_reference_bundle(Bundle.open("reference"))["model.language_model.embed_tokens.weight"].numpy()
    wanted = [Wanted(world.VALIDATION_SEED, 40 + i, STEPS, "traffic") for i in range(2)]
    with RuntimeClips("reference", wanted, (0.05, 0.25), 24, words, 1) as clips:
        return list(clips)


@pytest.mark.parametrize("encoding", [0, 1])
def test_clips_are_encoded_and_chosen_from_as_at_run_time(made, encoding):
    with Pipeline(Bundle.open("reference"), threads=1, full_encoder=encoding == 0) as pipeline:
        for clip in made:
            wanted = clip.rendered.wanted
            tokens = pipeline.encode(
                list(world.make_clip(wanted.seed, wanted.index, wanted.steps, wanted.regime).frames())
            ).tokens
            assert np.allclose(clip.tokens[encoding], tokens, atol=2e-3 * np.abs(tokens).max())
            for i, name in enumerate((*RULES, *LEARNED)):
                for budget, count in enumerate(COUNTS):
                    kept = clip_top_k(pipeline.selector(name).score(tokens, count), count).ravel()
                    assert ((clip.ranks[encoding, i, budget] < count) == kept).mean() > 0.99
            for (question, _, _), ranks in zip(clip.rendered.asked, clip.queried[encoding], strict=True):
                selector = pipeline.selector("score-query", question=question)
                for count in COUNTS:
                    kept = clip_top_k(selector.score(tokens, count), count).ravel()
                    assert ((ranks < count) == kept).mean() > 0.99


def test_incremental_encoding_is_something_else(made):
    assert all(not np.allclose(*clip.tokens, atol=1e-2) for clip in made)
