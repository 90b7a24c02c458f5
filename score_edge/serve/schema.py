"""The body of a chat request: what clients send, field by field. Unknown keys are skipped, as OpenAI's peers do."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=100_000)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Url(_Model):
    """Where a picture or a video is."""

    url: str = Field(min_length=1)


class TextPart(_Model):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImagePart(_Model):
    """A picture, as a data URI."""

    type: Literal["image_url"]
    image_url: Url


class VideoPart(_Model):
    """A video, as a data URI or a path below the server's media folder."""

    type: Literal["video_url"]
    video_url: Url


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(_Model):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class JsonSchema(_Model):
    """A named JSON schema."""

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Model):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamExtras(_Model):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class ChatRequest(_Model):
    """The body of POST /v1/chat/completions. `retention`, `selector` and `full_encoder` are ours."""

    model: str | None = Field(default=None, max_length=300)
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: StreamExtras | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    n: Literal[1] | None = None
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    repeat_penalty: float | None = Field(default=None, ge=0.1, le=10)
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    response_format: ResponseFormat | None = None
    retention: float | None = Field(default=None, gt=0, le=1)
    selector: str | None = Field(default=None, max_length=100)
    full_encoder: bool | None = None
