"""Names of cameras, on the command line and typed."""

from pathlib import Path

import pytest
import typer

from score_edge.cli.camera_names import named_question, named_sources


def test_names_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = named_sources(["front=rtsp://me:x=y@host/a?b=c", "yard_2=-?size=96x96&fps=4"])
    assert {name: address.raw() for name, address in found.items()} == {
        "front": "rtsp://me:x=y@host/a?b=c",
        "yard_2": "-?size=96x96&fps=4",
    }
    for alone in ("rtsp://host/live?channel=1", "-?size=96x96", "clip.mp4", "/a/b=c.mp4"):
        assert [(name, address.raw()) for name, address in named_sources([alone]).items()] == [("", alone)]
    monkeypatch.chdir(tmp_path)
    Path("a=b.mp4").touch()
    assert list(named_sources(["a=b.mp4"])) == [""]


def test_an_address_longer_than_any_file_name() -> None:
    address = "-?size=96x96&fps=" + "0" * 300
    assert named_sources([f"front={address}"])["front"].raw() == address


@pytest.mark.parametrize("given", [["front=a", "front=b"], ["front=a", "b"], ["rtsp://me:secret@host/x", "b=c"]])
def test_several_need_names_of_their_own(given: list[str]) -> None:
    with pytest.raises(typer.BadParameter) as error:
        named_sources(given)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "cameras", "expected"),
    [
        ("front> what moved?", ["front", "yard"], ("front", "what moved?")),
        (" frnt>what moved?\n", ["front", "yard"], ("frnt", "what moved?")),  # refused where it is asked
        ("is 3 > 2?", ["front", "yard"], (None, "is 3 > 2?")),
        ("front> what?", [""], (None, "front> what?")),
        ("", ["front"], (None, "")),
    ],
)
def test_whom_a_typed_question_is_for(line: str, cameras: list[str], expected: tuple[str | None, str]) -> None:
    assert named_question(line, cameras) == expected
