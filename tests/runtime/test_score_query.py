"""A selector that is told the question, from the words of the GGUF's own table to what it keeps."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.export.query_graph import QueryNetwork, export_query  # noqa: E402
from score_edge.learning.policy_run import with_policy  # noqa: E402
from score_edge.learning.reference_bundle import read_reference_bundle  # noqa: E402
from score_edge.learning.world_data import Prompts  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402
from score_edge.selection.dither import log_odds  # noqa: E402
from score_edge.selection.residual import background_tokens, previous_tokens  # noqa: E402

REFERENCE = Bundle.open("reference")
QUESTIONS = ("how many things moved fast?", "what color is the ring that moved?")


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(1)
    return QueryNetwork(192).eval()


@pytest.fixture(scope="module")
def pipeline(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    export_query(policy, folder / "query.onnx")
    bundle = with_policy(REFERENCE, REFERENCE.policy_path, folder / "bundle", query=folder / "query.onnx")
    with Pipeline(Bundle.open(bundle.folder), threads=1) as opened:
        yield opened


def test_words_are_rows_of_the_token_table(pipeline):
    pytest.importorskip("gguf")
    table = read_reference_bundle(REFERENCE)["model.language_model.embed_tokens.weight"]
    for question in QUESTIONS:
        expected = table[Prompts().ids(question)].mean(dim=0).numpy()
        assert np.allclose(pipeline.words(question)[0], expected, atol=1e-5)


def test_what_is_kept_depends_on_the_question_as_the_policy_says(pipeline, policy):
    tokens = pipeline.encode(world.make_clip(world.TEST_SEED, 3, 6).frames()).tokens
    kept = []
    for question in QUESTIONS:
        selector = pipeline.selector("score-query:dither=0", question=question)
        kept.append(pipeline.select(tokens, selector, 0.2))
        with torch.no_grad():
            asked = torch.from_numpy(pipeline.words(question))
            seen = (tokens, previous_tokens(tokens), background_tokens(tokens))
            keep = policy(*map(torch.from_numpy, seen), asked).numpy()
        assert np.allclose(selector.score(tokens, 40), log_odds(keep), atol=1e-3)
    assert not np.array_equal(*kept)


def test_without_a_question_or_such_a_policy_it_is_refused(pipeline, tmp_path):
    with pytest.raises(ScoreEdgeError, match="none is known here"):
        pipeline.selector("score-query")
    with pytest.raises(ScoreEdgeError, match="the question is empty"):
        pipeline.selector("score-query", question="")
    without = with_policy(REFERENCE, REFERENCE.policy_path, tmp_path / "bundle")
    with Pipeline(without, threads=1) as plain, pytest.raises(ScoreEdgeError, match="no policy that knows"):
        plain.selector("score-query", question="what?")


def test_a_new_policy_takes_the_old_ones_place_and_leaves_no_file_behind(pipeline, tmp_path):
    bundle = with_policy(pipeline.bundle, REFERENCE.policy_path, tmp_path / "bundle")
    assert bundle.query_path is None and not (bundle.folder / "query.onnx").exists()
