"""What existing clients send and read: the `openai` package as it is, Frigate's two plugins, Home Assistant."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")
jsonschema = pytest.importorskip("jsonschema")
QUESTION = "how many things moved fast?"
REVIEW = {
    "type": "object",
    "properties": {
        "scene": {"type": "string", "maxLength": 60},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "potential_threat_level": {"type": "integer", "minimum": 0, "maximum": 3},
        "other_concerns": {
            "anyOf": [{"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 2}, {"type": "null"}]
        },
    },
    "required": ["scene", "confidence", "potential_threat_level", "other_concerns"],
    "additionalProperties": False,
}


@pytest.fixture
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def content(frames: list[str], question: str = QUESTION, **more: Any) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": frame, **more}} for frame in frames]
    return [{"type": "text", "text": question}, *pictures]


def user(parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}]


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "reference" and model.max_model_len == 4096
    assert client.models.retrieve("reference") == model
    for name in ("none", "reference@front", "a/b", "ä"):
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve(name)
        assert refused.value.code == "model_not_found" and refused.value.param == "model"


def test_chat_streaming_and_usage_agree(client: Any, frames: list[str]) -> None:
    whole = client.chat.completions.create(model="reference", messages=user(content(frames)))
    chunks = list(
        client.chat.completions.create(
            model="reference", messages=user(content(frames)), stream=True, stream_options={"include_usage": True}
        )
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content != ""
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_answer_is_that_of_the_pipeline(client: Any, frames: list[str]) -> None:
    """Twenty pictures are the frames of one clip, a tenth of whose tokens is kept."""
    import base64

    import cv2
    import numpy as np

    from score_edge.bundle.folder import Bundle
    from score_edge.core import Frame
    from score_edge.runtime.pipeline import Pipeline

    with Pipeline(Bundle.open("reference"), context=2048, threads=1) as pipeline:
        images = [
            cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            for uri in frames
        ]
        clip = pipeline.encode(Frame(np.ascontiguousarray(image), i, i) for i, image in enumerate(images))
        for question in (QUESTION, "what colour was the thing that moved?"):
            answer, keep = pipeline.answer(clip, question, selector=pipeline.selector(), retention=0.1)
            found = client.chat.completions.create(model="reference", messages=user(content(frames, question)))
            assert found.choices[0].message.content == answer.text
            assert found.score_edge == found.score_edge | {"kept": int(keep.sum()), "total": keep.size}


def test_the_same_frames_again_cost_their_text(client: Any, frames: list[str]) -> None:
    first, again, other = (
        client.chat.completions.create(model="reference", messages=user(content(given, question)))
        for given, question in ((frames[:18], "what?"), (frames[:18], QUESTION), (frames[:17], QUESTION))
    )
    assert first.usage.prompt_tokens_details.cached_tokens == 0 == other.usage.prompt_tokens_details.cached_tokens
    assert again.usage.prompt_tokens_details.cached_tokens > 30
    assert "encode" in first.score_edge["seconds"] and "encode" not in again.score_edge["seconds"]
    fresh = client.chat.completions.create(
        model="reference", messages=user(content(frames[:18])), extra_body={"retention": 0.1000001}
    )
    assert fresh.usage.prompt_tokens_details.cached_tokens == 0
    assert fresh.choices[0].message.content == again.choices[0].message.content


def test_retention_and_selector_of_one_request(client: Any, frames: list[str]) -> None:
    def kept(**extra: Any) -> int:
        found = client.chat.completions.create(model="reference", messages=user(content(frames)), extra_body=extra)
        return found.score_edge["kept"]

    assert kept(retention=0.5) == 180 and kept(selector="all") == 360 and kept(selector="uniform") == 36
    with pytest.raises(openai.BadRequestError, match="did you mean"):
        kept(selector="unifrom")


def test_sampling(client: Any) -> None:
    def answer(**options: Any) -> Any:
        extra = {"repeat_penalty": options.pop("repeat_penalty", None)}
        return client.chat.completions.create(
            model="reference", messages=user(QUESTION), max_tokens=12, extra_body=extra, **options
        )

    hot = {answer(temperature=5, seed=seed).choices[0].message.content for seed in range(6)}
    assert len(hot) > 3
    assert (
        answer(temperature=5, seed=3).choices[0].message.content
        == answer(temperature=5, seed=3).choices[0].message.content
    )
    greedy = answer(temperature=0).choices[0].message.content
    assert greedy == answer(temperature=5, top_p=0).choices[0].message.content
    assert answer(stop=greedy[-2:]).choices[0].message.content == greedy[:-2]
    cut = answer(temperature=5, seed=1, max_completion_tokens=1)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 1


def test_frigate_openai_plugin(client: Any, frames: list[str]) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    for i, frame in enumerate(frames):
        parts += [
            {"type": "text", "text": f"Frame {i}"},
            {"type": "image_url", "image_url": {"url": frame, "detail": "low"}},
        ]
    form = {"type": "json_schema", "json_schema": {"name": "review", "strict": True, "schema": REVIEW}}
    found = client.chat.completions.create(
        model="reference",
        messages=user(parts),
        timeout=120,
        response_format=form,
        max_tokens=300,
        temperature=1,
        seed=1,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}, "whatever": 1},
    )
    assert found.choices[0].finish_reason == "stop" and found.score_edge["total"] == 360
    jsonschema.validate(json.loads(found.choices[0].message.content.strip()), REVIEW)


def test_frigate_llama_cpp_plugin(address: str, frames: list[str]) -> None:
    (model,) = httpx.get(f"{address}/v1/models").json()["data"]
    assert "image" in model["architecture"]["input_modalities"] and model["meta"]["n_ctx"] and model["aliases"] == []
    props = httpx.get(f"{address}/props", params={"model": model["id"]}).json()
    assert props["default_generation_settings"]["n_ctx"] == 4096 and props["modalities"]["vision"]
    assert props["media_marker"] and props["chat_template_caps"] == {"supports_tools": False}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"model": model["id"], "messages": user(content(frames)), "tools": tools, "tool_choice": "auto"}
    found = httpx.post(f"{address}/v1/chat/completions", json=body).json()
    assert found["choices"][0]["message"]["content"].strip() and found["usage"]["completion_tokens"] > 0
    with httpx.stream(
        "POST",
        f"{address}/v1/chat/completions",
        json={**body, "stream": True, "stream_options": {"include_usage": True}},
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["usage"]["prompt_tokens"] > 30


def test_home_assistant(address: str, frames: list[str]) -> None:
    body = {
        "model": "reference",
        "messages": [{"role": "system", "content": "Answer shortly."}, *user(content(frames[:3]))],
        "max_completion_tokens": 10,
        "temperature": 0.2,
        "top_p": 0.9,
    }
    found = httpx.post(f"{address}/v1/chat/completions", json=body, headers={"Authorization": "Bearer x"})
    assert found.status_code == 200 and found.json()["choices"][0]["message"]["content"]


def test_a_conversation_goes_on(client: Any, frames: list[str]) -> None:
    said = [*user(content(frames)), {"role": "assistant", "content": "two"}, *user("what colour?")]
    assert client.chat.completions.create(model="reference", messages=said).choices[0].message.content


def test_json_object(client: Any) -> None:
    for seed in range(8):
        found = client.chat.completions.create(
            model="reference",
            messages=user(QUESTION),
            response_format={"type": "json_object"},
            temperature=4,
            seed=seed,
            max_tokens=200,
        )
        if found.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(found.choices[0].message.content), dict)


def test_errors_are_openais(client: Any, address: str, as_uri: Callable[..., str]) -> None:
    with pytest.raises(openai.NotFoundError, match="only reference") as found:
        client.chat.completions.create(model="gpt-4o", messages=user("?"))
    assert found.value.code == "model_not_found" and found.value.param == "model"
    with pytest.raises(openai.BadRequestError) as found:
        client.chat.completions.create(model="reference", messages=user("word " * 9000))
    assert found.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="pattern cannot be guaranteed") as found:
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string", "pattern": "a+"}}}
        client.chat.completions.create(model="reference", messages=user("?"), response_format=form)
    assert found.value.code == "invalid_schema"
    with pytest.raises(openai.BadRequestError, match="temperature") as found:
        client.chat.completions.create(model="reference", messages=user("?"), temperature=-1)
    assert found.value.type == "invalid_request_error"
    for part, field, said in (
        ({"type": "input_audio", "input_audio": {}}, "", "input_audio"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, ".image_url", "should be an object"),
        ({"type": "text"}, ".text", "required"),
    ):
        with pytest.raises(openai.BadRequestError, match=said) as found:
            text = {"type": "text", "text": "?"}
            client.chat.completions.create(model="reference", messages=[{"role": "user", "content": [text, part]}])
        assert found.value.param == f"messages.0.content.1{field}"
    with pytest.raises(openai.BadRequestError, match="at most 100000") as found:
        client.chat.completions.create(model="reference", messages=user("x" * 100_001))
    assert found.value.param == "messages.0.content"
    assert httpx.get(f"{address}/nowhere").json()["error"]["code"] == "not_found"
