"""Every number of a run that learns a policy, one that knows the question, or an adapter."""

from dataclasses import dataclass
from typing import Literal, get_args

from score_edge.errors import ScoreEdgeError, did_you_mean

Advantage = Literal["split", "product"]
RATE_BY_WIDTH = 0.384
"""Of an adapter: 2e-3 at the reference model's 192, 1.9e-4 at 2,048."""


@dataclass(frozen=True, slots=True)
class PolicyRecipe:
    """Every number of the run; what is not the paper's is ours.

    Attributes:
        steps: updates of the policy.
        clips: clips per update, over all processes.
        rollouts: K, masks per clip.
        learning_rate: of Adam, falling to a tenth along a cosine.
        lowest, highest: keep rates of the rollouts, drawn per clip, log-uniform: one policy must rank well at all.
        advantage: "split" (ours, after the paper's idea), or "product", one advantage of quality * sparsity.
        sparsity_weight, slack: of the split advantage.
        logit_penalty: weight of mean(logit^2), against saturation.
        residual: False hides the change from the policy: it sees x only.
        still_share: share of the steps on pseudo-videos, stage 1; 0 is no curriculum.
        warm_steps: of a regression of the logits on the size of the change, before any reward; 0 starts at random.
        warm_spread: standard deviation of the logits after it: the larger, the nearer masks are to the top-k that is
            kept at test time, and the fewer tokens a group explores.
        hidden: width of the policy's hidden layer.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 600
    clips: int = 8
    rollouts: int = 16
    learning_rate: float = 2e-3
    lowest: float = 0.015
    highest: float = 0.15
    advantage: Advantage = "split"
    sparsity_weight: float = 0.1
    slack: float = 0.02
    logit_penalty: float = 1e-4
    residual: bool = True
    still_share: float = 0.2
    warm_steps: int = 400
    warm_spread: float = 2.0
    hidden: int = 32
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.highest < 1:
            raise ScoreEdgeError(f"keep rates from {self.lowest} to {self.highest} are not within (0, 1)")
        if self.advantage not in get_args(Advantage):
            raise ScoreEdgeError(
                f"there is no advantage {self.advantage!r}", did_you_mean(self.advantage, get_args(Advantage))
            )
        if self.rollouts < 2 or self.clips < 1 or self.steps < 1:
            raise ScoreEdgeError("a group needs at least two rollouts, a step one clip, a run one step")
        if not 0 <= self.seed < 2**63:
            raise ScoreEdgeError(f"seed {self.seed} is outside 0 to 2**63 - 1")

    def still_steps(self) -> int:
        """Steps of stage 1."""
        return round(self.steps * self.still_share)


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """Every number of a run that learns an adapter; all are ours.

    Attributes:
        steps: updates.
        clips: clips per update, each with all its questions.
        rank: of the matrices.
        learning_rate: of Adam, highest after a twentieth of the updates, then falling to zero along a cosine; None is
            RATE_BY_WIDTH / the hidden size.
        lowest, highest: shares of the tokens that are kept, drawn per clip, log-uniform.
        whole: share of the clips of which every token is kept, so that answers from all of them stay as they are.
        selector: what keeps them; None is the bundle's own.
        checkpoint_every: updates between checkpoints, and between looks at the clips that are held out.
    """

    steps: int = 1000
    clips: int = 8
    rank: int = 8
    learning_rate: float | None = None
    lowest: float = 0.0125
    highest: float = 0.3
    whole: float = 0.125
    selector: str | None = None
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.highest <= 1 or not 0 <= self.whole < 1:
            raise ScoreEdgeError(f"shares from {self.lowest} to {self.highest}, and {self.whole} of the clips whole")
        if self.rank < 1 or self.clips < 1 or self.steps < 1:
            raise ScoreEdgeError("an adapter needs a rank, a step a clip, a run a step: all at least 1")
        if (self.selector or "").partition(":")[0] == "all":
            raise ScoreEdgeError("the selector all keeps every token: there is nothing to learn", "name another one")
        if not 0 <= self.seed < 2**63:
            raise ScoreEdgeError(f"seed {self.seed} is outside 0 to 2**63 - 1")


@dataclass(frozen=True, slots=True)
class QueryRecipe:
    """Every number of a run that learns a policy that knows the question; all are ours.

    Attributes:
        steps: updates.
        clips: clips per update, each with all its questions.
        learning_rate: of Adam, highest after a twentieth of the updates, then falling to zero along a cosine.
        hidden: width of the policy's hidden layers.
        checkpoint_every: updates between checkpoints, and between looks at the clips that are held out.
    """

    steps: int = 3000
    clips: int = 4
    learning_rate: float = 2e-3
    hidden: int = 64
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or self.steps < 1 or self.hidden < 1:
            raise ScoreEdgeError("a step needs a clip, a run a step, a network a width: all at least 1")
        if not 0 <= self.seed < 2**63:
            raise ScoreEdgeError(f"seed {self.seed} is outside 0 to 2**63 - 1")
