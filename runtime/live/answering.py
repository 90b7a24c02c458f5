"""One question answered: by one camera or by all of them, and what is told of it."""

import contextlib
import time
from collections.abc import Callable, Generator

from score_edge.errors import error_text
from score_edge.runtime.language.sampling import Ended
from score_edge.runtime.live.cameras import Camera, Cameras
from score_edge.runtime.live.events import AnswerBegan, Answered, AnswerPiece, Listener
from score_edge.runtime.live.questions import Waiting


def give_answer(
    waiting: Waiting,
    cameras: Cameras,
    tell: Listener,
    stopped: Callable[[], bool],
    meanwhile: Callable[[Camera | None], None],
) -> Answered:
    """Answer a question; what fails is said in the answer.

    Args:
        waiting: the question.
        cameras: to ask.
        tell: told that it begins, and of every piece.
        stopped: whether to go no further.
        meanwhile: called between two pieces, with the camera whose memory is in the cache that answers; None: no one's.
    """
    began, asked, camera = time.monotonic(), cameras.asked(waiting.camera), waiting.camera or ""
    time_s, arrived = asked.time_s, asked.arrived
    alone = asked.cameras[0] if len(asked.cameras) == 1 else None
    cached = alone.memory.used if alone else 0
    pieces: list[str] = []
    first = 0.0
    failed: Exception | None = None
    ended: Ended | None = None
    tell(AnswerBegan(waiting.question, waiting.why, camera))

    def words() -> Generator[str, None, None]:
        nonlocal ended
        ended = yield from cameras.answer(asked, waiting.question, waiting.max_tokens, waiting.sampling)

    try:
        with contextlib.closing(words()) as answer:
            for piece in answer:
                first = first or time.monotonic() - began
                pieces.append(piece)
                waiting.on_text(piece)
                tell(AnswerPiece(waiting.question, piece, camera))
                if stopped():
                    break
                # Asked here and not before: a cache that was lost is filled by the question.
                meanwhile(alone if alone and alone.memory.used else None)
    except Exception as failure:
        failed = failure
    now = time.monotonic()
    return Answered(
        question=waiting.question,
        text="".join(pieces),
        why=waiting.why,
        time_s=time_s,
        age_s=0.0 if arrived is None else began - arrived,
        source=asked.state,
        ttft_s=first or now - began,
        waited_s=began - waiting.asked,
        whole_s=now - waiting.asked,
        stopped=stopped(),
        error=error_text(failed) if failed else "",
        camera=camera,
        ended=ended,
        cached=cached,
        failure=failed,
    )
