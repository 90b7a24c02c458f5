"""The bundle that times are measured with: its prompt, and that an older one is made anew."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle, write_bundle, write_manifest
from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection
from score_edge.bundle.provenance import Provenance


@pytest.fixture(scope="module")
def tool() -> Any:
    path = Path(__file__).parents[2] / "tools" / "siglip_bundle.py"
    spec = importlib.util.spec_from_file_location("siglip_bundle", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_prompt_is_smolvlms(tool: Any) -> None:
    jinja2 = pytest.importorskip("jinja2")
    words = pytest.importorskip("transformers.models.smolvlm.processing_smolvlm")
    content = [{"type": "video"}, {"type": "text", "text": "{question}"}]
    chat = jinja2.Template(words.DEFAULT_CHAT_TEMPLATE).render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    before, _, after = chat.partition("<video>")
    intro = words.DEFAULT_VIDEO_INTRO.format(frame_count="{frames}", video_duration="{duration}")
    frame = words.FRAME_TIMESTAMP_MESSAGE.format(timestamp="{clock}")
    fake = "<fake_token_around_image>"
    step = f"{frame}{fake}<global-img>{{tokens}}{fake}"
    assert Prompt(before + intro, words.DEFAULT_MEDIA_OUTTRO + after, step) == tool.PROMPT


def test_one_of_an_older_recipe_is_not_taken(tool: Any, tmp_path: Path) -> None:
    llm = tmp_path / "llm.gguf"
    llm.write_bytes(b"GGUF")
    folder = tmp_path / "bundle"
    assert not tool._is_current(folder, str(llm))
    manifest = Manifest(
        name="as made",
        family="smolvlm",
        vision=tool.VISION,
        selector=Selection("evs", None, 0.1),
        language=Language("plain", 8192, tool.VISION.dim, path=str(llm), parts=(FileRef(llm.name, "0" * 64, 4),)),
        prompt=tool.PROMPT,
        provenance=Provenance.now("a test"),
    )
    made = write_bundle(folder, manifest, {"encoder.onnx": b"graph"})
    assert tool._is_current(folder, str(llm))
    assert not tool._is_current(folder, str(tmp_path / "other.gguf"))
    older = dataclasses.replace(made.manifest, prompt=Prompt("<fake>", "{question}"))
    write_manifest(Bundle(folder, made.manifest), older)
    assert not tool._is_current(folder, str(llm))
