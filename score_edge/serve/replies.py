"""Answers in OpenAI's form: whole, or as a stream of server-sent events."""

import json
import secrets
import time
from typing import Any

from starlette.responses import JSONResponse

from score_edge.serve.engine import GenerationResult
from score_edge.serve.refusal import Refused

DONE = "data: [DONE]\n\n"


def refuse(refusal: Refused) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def usage(result: GenerationResult) -> dict[str, Any]:
    """Tokens that an answer cost."""
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.ended.tokens,
        "total_tokens": result.prompt_tokens + result.ended.tokens,
        "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
    }


def cost(result: GenerationResult) -> dict[str, Any]:
    """Our own addition to an answer: visual tokens and seconds."""
    seconds = {stage: round(value, 4) for stage, value in result.seconds.items()}
    return {"kept": result.kept, "total": result.total, "ttft_s": round(result.ttft_s, 4), "seconds": seconds}


class Writer:
    """Writes the parts of one answer."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, result: GenerationResult) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": result.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.ended.reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(result),
            "score_edge": cost(result),
        }

    def chunk(self, delta: dict[str, str], reason: str | None = None) -> str:
        """The next words, or the end."""
        return self._event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def usage(self, result: GenerationResult) -> str:
        """What the answer cost, behind its end."""
        return self._event(choices=[], usage=usage(result), score_edge=cost(result))

    def _event(self, **values: Any) -> str:
        return f"data: {json.dumps({**self._head, 'object': 'chat.completion.chunk', **values})}\n\n"
