from score_edge.profiling.report import EncoderSteps
from score_edge.profiling.wording import encoder_steps


def test_what_the_encoder_did_in_one_line():
    steps = EncoderSteps(36, 0.5, 1, 2, 0.004, 12, 0.001, None)
    assert encoder_steps(steps) == (
        "encoder: 50% of the cells encoded; 1 step whole, 4.0 ms each; in the others 12 of 36 cells, 1.0 ms; "
        "2 steps without a change"
    )
