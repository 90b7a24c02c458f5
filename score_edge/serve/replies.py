"""Answers in OpenAI's form: whole, or as a stream of server-sent events."""

import json
import secrets
import time
from typing import Any

from starlette.responses import JSONResponse

from score_edge.serve.engine import Reply
from score_edge.serve.refusal import Refused

DONE = "data: [DONE]\n\n"


def refuse(refusal: Refused) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def usage(reply: Reply) -> dict[str, Any]:
    """Tokens that an answer cost."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.ended.tokens,
        "total_tokens": reply.prompt_tokens + reply.ended.tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }


def cost(reply: Reply) -> dict[str, Any]:
    """Our own addition to an answer: visual tokens and seconds."""
    seconds = {stage: round(value, 4) for stage, value in reply.seconds.items()}
    return {"kept": reply.kept, "total": reply.total, "ttft_s": round(reply.ttft_s, 4), "seconds": seconds}


class Writer:
    """Writes the parts of one answer."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.ended.reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(reply),
            "score_edge": cost(reply),
        }

    def chunk(self, delta: dict[str, str], reason: str | None = None) -> str:
        """The next words, or the end."""
        return self._event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def usage(self, reply: Reply) -> str:
        """What the answer cost, behind its end."""
        return self._event(choices=[], usage=usage(reply), score_edge=cost(reply))

    def _event(self, **values: Any) -> str:
        return f"data: {json.dumps({**self._head, 'object': 'chat.completion.chunk', **values})}\n\n"
