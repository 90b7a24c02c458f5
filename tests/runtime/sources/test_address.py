"""An address is opened as it was given and never shown as it was given."""

import json
import pickle
from pathlib import Path

import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.network import take_transport
from score_edge.runtime.sources.open_source import open_source

SECRET = "hunter2"
WITH_SECRETS = [
    f"rtsp://me:{SECRET}@camera:554/live",
    f"rtsp://me:p@{SECRET}@camera/live",
    f"rtsp://me:p/{SECRET}@camera/live",
    f"rtsp://me:{SECRET}/p@ss@camera/live",
    f"rtsp://me:p?{SECRET}#x@camera/live",
    f"rtsp://{SECRET}@camera/live",
    f"rtsp://camera:554/user=admin_password={SECRET}_channel=1_stream=0.sdp",
    f"rtsps://camera:7441/{SECRET}?enableSrtp",
    f"http://camera/snapshot?user=me&pwd={SECRET}",
    f"HTTPS://camera/{SECRET}/video.mp4#{SECRET}",
    f"http://camera#{SECRET}",
    f"http://[::1]:8080/{SECRET}",
    f"gopher://me:{SECRET}@x/y",
    f"rtsp://camera:{SECRET}",
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_no_secret_is_ever_shown(text: str) -> None:
    address = Address(text)
    for shown in (str(address), repr(address), f"{address}", f"{address!r:>5}", address.name):
        assert SECRET not in shown
    assert address.raw() == text and Address(address) == address
    with pytest.raises(TypeError):
        json.dumps(address)
    with pytest.raises(TypeError):
        pickle.dumps(address)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        (
            f"rtsp://me:pa[{SECRET}@camera/live?transport=udp&channel=1#x",
            f"rtsp://me:pa[{SECRET}@camera/live?channel=1#x",
        ),
        (f"rtsp://me:\u2100{SECRET}@camera/live?transport=udp", f"rtsp://me:\u2100{SECRET}@camera/live"),
        ("rtsp://[::1]:554/live?a=1&transport=udp&b=2", "rtsp://[::1]:554/live?a=1&b=2"),
    ],
)
def test_the_transport_is_taken_out_whatever_the_password(text: str, opened: str) -> None:
    assert take_transport(Address(text)) == (opened, "udp")


def test_options_are_read_whatever_stands_before_them() -> None:
    assert Address("csi://[0?width=640").options({"width": "1", "height": "2"}) == {"width": "640", "height": "2"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:x@camera:554/live?a=b", "rtsp://***@camera:554/***"),
        ("http://camera:8080/", "http://camera:8080"),
        ("http://[::1]:80/a", "http://[::1]:80/***"),
        ("rtsp://me:p/w@camera/live", "rtsp://***"),
        ("v4l2:///dev/video0?width=640", "v4l2:///dev/video0?width=640"),
        ("synthetic://?seed=7", "synthetic://?seed=7"),
        ("-?size=6x4", "-?size=6x4"),
        ("clips/a b@c.mp4", "clips/a b@c.mp4"),
        ("caf\udce9.mp4", "caf\N{REPLACEMENT CHARACTER}.mp4"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert str(Address(text)) == shown


def test_options_that_are_wrong_show_no_secret() -> None:
    with pytest.raises(ScoreEdgeError) as caught:
        open_source(f"rtsp://me:{SECRET}@camera/live?transport=sctp")
    assert "transport must be tcp or udp" in caught.value.message and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("clip.mp4", "clip.mp4"),
        ("file:///a/clip.mp4", "/a/clip.mp4"),
        ("file:///a/my%20clip%C3%A9.mp4", "/a/my clipé.mp4"),
        ("file:///a/caf\udce9%20.mp4", "/a/caf\udce9 .mp4"),  # typed in a name's own bytes, which are no UTF-8
        ("file://localhost/a/clip.mp4", "/a/clip.mp4"),
        ("FILE:///a/what?.mp4", "/a/what?.mp4"),
        ("rtsp://camera/a", None),
        ("-", None),
    ],
)
def test_paths(text: str, path: str | None) -> None:
    assert Address(text).path == (None if path is None else Path(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no source is given"), ("  ", "no source is given"), ("file://nas/clip.mp4", "not a file of this machine")],
)
def test_no_address(text: str, message: str) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        open_source(text)
