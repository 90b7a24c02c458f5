"""A selector that is told the question, from the words of the GGUF's own table to what it keeps."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.export.query_graph import QueryNetwork, export_query  # noqa: E402
from score_edge.learning.query_run import with_query  # noqa: E402
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
    bundle = with_query(REFERENCE, folder / "query.onnx", folder / "bundle")
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


def test_without_a_question_or_such_a_policy_it_is_refused(pipeline):
    with pytest.raises(ScoreEdgeError, match="none is known here"):
        pipeline.selector("score-query")
    with pytest.raises(ScoreEdgeError, match="the question is empty"):
        pipeline.selector("score-query", question="")
    selection = dataclasses.replace(REFERENCE.manifest.selector, query=None)
    without = Bundle(REFERENCE.folder, dataclasses.replace(REFERENCE.manifest, selector=selection))
    with Pipeline(without, threads=1) as plain, pytest.raises(ScoreEdgeError, match="no policy that knows"):
        plain.selector("score-query", question="what?")


def test_a_new_one_takes_the_old_ones_place(policy, tmp_path):
    torch.manual_seed(2)
    export_query(QueryNetwork(192).eval(), tmp_path / "new.onnx")
    bundle = with_query(REFERENCE, tmp_path / "new.onnx", tmp_path / "bundle")
    assert bundle.paths.keys() == REFERENCE.paths.keys()
    assert bundle.query_path.read_bytes() == (tmp_path / "new.onnx").read_bytes()
    assert bundle.manifest.selector.policy == REFERENCE.manifest.selector.policy


def test_one_of_another_width_does_not_get_into_a_bundle(tmp_path):
    export_query(QueryNetwork(7), tmp_path / "query.onnx")
    with pytest.raises(ScoreEdgeError, match=r"expected \(M, 192\)"):
        with_query(REFERENCE, tmp_path / "query.onnx", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
