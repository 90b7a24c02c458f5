"""From the messages of a chat request to what is asked: one clip, and one text behind it."""

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.json_grammar import JSON_OBJECT, schema_grammar
from score_edge.runtime.language.sampling import Sampling
from score_edge.serve.engine import GenerationRequest
from score_edge.serve.media import Clip, picture, pictures_clip, video_clip
from score_edge.serve.options import ServeOptions
from score_edge.serve.refusal import Refused
from score_edge.serve.schema import ChatRequest, ImagePart, Message, TextPart, VideoPart

_STOPS = 16


def read_conversation(
    request: ChatRequest, options: ServeOptions, fps: float, frames_per_step: int, camera: str | None = None
) -> GenerationRequest:
    """What a request asks. Pictures, in order, are the frames of one clip; earlier turns become text before the last.

    Args:
        request: validated.
        options: of the server: limits and the media folder.
        fps, frames_per_step: of the bundle, for videos.
        camera: that is asked, in text alone; None where pictures and videos are welcome.

    Raises:
        Refused: something in it cannot be taken.
    """
    question = _text(request.messages)
    if not question.strip():
        raise Refused(400, "there is no text in messages", "invalid_request", "messages")
    clip = _clip(request.messages, options, fps, frames_per_step)
    if camera and (clip or request.retention or request.selector or request.full_encoder):
        message = "a camera is asked in text: without pictures, retention, selector and full_encoder"
        raise Refused(400, message, "invalid_request")
    return GenerationRequest(
        clip=clip,
        question=question,
        selector=request.selector,
        retention=request.retention,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        sampling=_sampling(request),
        camera=camera,
        full_encoder=bool(request.full_encoder),
    )


def _clip(messages: list[Message], options: ServeOptions, fps: float, frames_per_step: int) -> Clip | None:
    pictures, videos = list[bytes](), list[tuple[str, str]]()
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{i}].content[{j}]"
            if isinstance(part, VideoPart):
                videos.append((part.video_url.url, f"{where}.video_url.url"))
            elif isinstance(part, ImagePart):
                if len(pictures) == options.images:
                    raise Refused(400, f"more than {options.images} pictures in one request", "too_many_images", where)
                pictures.append(picture(part.image_url.url, options.pixels_m, f"{where}.image_url.url"))
    if len(videos) > 1 or (videos and pictures):
        raise Refused(400, "a request is about one video, or about pictures", "invalid_request", "messages")
    if videos:
        (url, where) = videos[0]
        return video_clip(url, options.media_root, fps, options.images * frames_per_step, where)
    return pictures_clip(pictures) if pictures else None


def _text(messages: list[Message]) -> str:
    """Instructions, then what was said before, then the last turn."""
    said = [(message.role, _of(message).strip()) for message in messages]
    instructions = [text for role, text in said if role in ("system", "developer") and text]
    turns = [(role, text) for role, text in said if role not in ("system", "developer") and text]
    if len(turns) > 1:
        earlier = "\n".join(f"{role}: {text}" for role, text in turns[:-1])
        turns = [("user", f"Said before:\n{earlier}\n\n{turns[-1][1]}")]
    return "\n\n".join([*instructions, *(text for _, text in turns)])


def _of(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    return message.content or ""


def _sampling(request: ChatRequest) -> Sampling:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > _STOPS:
        raise Refused(400, f"more than {_STOPS} stop texts", "invalid_request", "stop")
    return Sampling(
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        repeat_penalty=request.repeat_penalty or 1.0,
        stop=tuple(stop),
        grammar=_grammar(request),
    )


def _grammar(request: ChatRequest) -> str:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return ""
    if wanted.type == "json_object":
        return JSON_OBJECT
    if wanted.json_schema is None:
        raise Refused(400, "json_schema is missing", "invalid_schema", "response_format.json_schema")
    try:
        return schema_grammar(wanted.json_schema.schema_)
    except ScoreEdgeError as error:
        raise Refused(400, str(error), "invalid_schema", "response_format.json_schema.schema") from error
