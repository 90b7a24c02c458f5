"""How large a KV cache one clip needs."""

import math

from score_edge.bundle.manifest import Manifest

_PROMPT = 256  # tokens of text around the video, the question included
_STEP_TEXT = 24  # of what some families write around every step: its time, its number


def cells_needed(manifest: Manifest, steps: int, retention: float, answer_tokens: int) -> int:
    """KV cells for a clip and its answer, at least the bundle's context; text is counted generously.

    Args:
        manifest: of the bundle.
        steps: of the encoder.
        retention: share of the visual tokens that is prefilled.
        answer_tokens: the longest answer.

    Example:
        >>> from score_edge.bundle.folder import Bundle
        >>> cells_needed(Bundle.open("reference").manifest, steps=2000, retention=1, answer_tokens=16)
        72272
    """
    visual = math.ceil(steps * manifest.vision.token_grid.tokens * retention)
    prompt = manifest.prompt
    text = _PROMPT + (steps * _STEP_TEXT if prompt.step or prompt.between else 0)
    return max(manifest.language.context, visual + text + answer_tokens)
