"""``newest``: the last steps whole and nothing else (SimpleStream, arXiv 2604.02317)."""

import numpy as np

from score_edge.core import Float32


class Newest:
    """Keeps the last ``count / N`` steps, the oldest of them evenly thinned. Does not look at the tokens."""

    name = "newest"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: tokens the budget will keep.

        Returns:
            (T, N) float32: the number of the step, and less than one more where an oldest step is thinned to.
        """
        steps, per_step = tokens.shape[:2]
        scores = np.repeat(np.arange(steps, dtype=np.float32)[:, None], per_step, axis=1)
        picks = count % per_step
        if picks:
            oldest = steps - 1 - count // per_step
            scores[oldest, [(2 * pick + 1) * per_step // (2 * picks) for pick in range(picks)]] += 0.5
        return scores
