"""Errors in OpenAI's form."""

from typing import Any

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(Exception):  # noqa: N818
    """A request is not answered.

    Args:
        status: of HTTP.
        message: what is wrong and what to do.
        code: for programs.
        param: the field of the body that is wrong.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """That go with it."""
        return {429: {"Retry-After": "2"}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status, {})
