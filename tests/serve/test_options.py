"""Options of the server: what is refused, the file beside the command line, the command itself."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from score_edge.errors import ScoreEdgeError

pytest.importorskip("fastapi")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "0.0.0.0"}, "a key is required"),
        ({"host": "::", "key": ""}, "a key is required"),
        ({"media_root": "/nowhere/at/all"}, "is no folder"),
        ({"retention": 2.0}, "outside"),
        ({"clips": 0}, "clips is 0"),
        ({"key": "with space"}, "characters"),
        ({"mqtt": "broker:1883", "source": {"front": "synthetic://"}}, "must be mqtt://"),
        ({"mqtt": "mqtt://broker"}, "nothing to publish"),
    ],
)
def test_refused(given: dict[str, Any], said: str) -> None:
    from score_edge.serve.options import ServeOptions

    with pytest.raises(ScoreEdgeError, match=said):
        ServeOptions(**given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fps", "2"], "--fps does nothing without a camera"),
        (["--alert-above", "5"], "--alert-above does nothing without a camera"),
        (["--selector", "all", "--retention", "0.2"], "--retention does nothing with --selector all"),
    ],
)
def test_options_that_would_do_nothing(words: list[str], said: str) -> None:
    from typer.testing import CliRunner

    from score_edge.cli import app

    refused = CliRunner().invoke(app, ["serve", "reference", "--systemd", *words], env={"COLUMNS": "200"})
    assert refused.exit_code == 2 and said in refused.output


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SCORE_EDGE_KEEY", "SCORE_EDGE_KEY"),
        ("SCORE_EDGE_API_KEY", "SCORE_EDGE_KEY"),
        ("SCORE_EDGE_MQQT", "SCORE_EDGE_MQTT"),
        ("SCORE_EDGE_KEY", ""),
        ("SCORE_EDGE_SHARED", ""),
    ],
)
def test_a_misspelt_variable_is_named(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from score_edge.cli.serving import _say_misspelt

    monkeypatch.setenv(name, "secret")
    _say_misspelt()
    said = capsys.readouterr().err
    assert said == (f"note: {name} is not read; did you mean {meant}?\n" if meant else "") and "secret" not in said


def test_others_may_connect_with_a_key() -> None:
    from score_edge.serve.options import ServeOptions

    assert not ServeOptions(host="0.0.0.0", key="k").local
    assert all(ServeOptions(host=host).local for host in ("127.0.0.1", "::1", "localhost"))


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    from score_edge.serve.options import read_options

    path = tmp_path / "serve.toml"
    path.write_text('port = 1234\nretention = 0.2\nkey = "k"\n')
    found = read_options(path, {"port": 99})
    assert (found.port, found.retention, found.key, found.host) == (99, 0.2, "k", "127.0.0.1")
    for text, said in (
        ("prot = 1", "did you mean port"),
        ("port = 'x'", "port must be a whole number"),
        ("=", "no TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ScoreEdgeError) as error:
            read_options(path, {})
        assert said in str(error.value)
    with pytest.raises(ScoreEdgeError, match="cannot be read"):
        read_options(tmp_path / "none.toml", {})


def test_the_command_says_where_answers_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference", "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "SCORE_EDGE_KEY": "top-secret"}
    ) as server:
        try:
            assert server.stderr
            address = server.stderr.readline().split(" at ")[1].split()[0]
            asked = urllib.request.Request(
                f"{address}/chat/completions", headers={"Authorization": "Bearer top-secret"}
            )
            asked.add_header("Content-Type", "application/json")
            asked.data = json.dumps({"messages": [{"role": "user", "content": "a private question"}]}).encode()
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert json.load(answer)["choices"]
            taken = subprocess.run(
                [*command[:-1], address.rsplit(":", 1)[1].split("/")[0]], capture_output=True, text=True, timeout=60
            )
            assert taken.returncode == 1 and "listened at: Address already in use\nhint: --port 0" in taken.stderr
            assert taken.stderr.startswith("error: ")
        finally:
            server.send_signal(signal.SIGINT)
        rest = server.stderr.read()
        assert (
            server.wait(30) in (0, 130) and "private" not in rest and "secret" not in rest and "Traceback" not in rest
        )


@pytest.mark.parametrize("host", ["256.1.1.1", "no such machine", "203.0.113.9", f"{'a' * 70}.example"])
def test_an_address_of_another_machine_is_refused_before_the_model_is_opened(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from score_edge.bundle.folder import Bundle
    from score_edge.serve import run
    from score_edge.serve.options import ServeOptions

    monkeypatch.setattr(run, "opened", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ScoreEdgeError, match=r"cannot be listened at: .") as error:
        run.serve(Bundle.open("reference"), ServeOptions(host=host, key="k"), lambda *_: None)
    assert "--host 127.0.0.1" in error.value.hint


def test_a_systemd_unit(tmp_path: Path) -> None:
    """Its command is ours again after systemd's own quoting, the key is not in it, and systemd accepts it."""
    import shlex
    import shutil

    (tmp_path / "my videos").mkdir()
    (tmp_path / "serve.toml").write_text("waiting = 3")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference", "--systemd"]
    options = ["--host", "0.0.0.0", "--key", "top-secret", "--media-root", "my videos", "--config", "serve.toml"]
    unit = subprocess.run([*command, *options], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "top-secret" not in unit
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    found = shlex.split(line.removeprefix("ExecStart="))
    assert found[:5] == [*command[:4], "reference"]
    given = dict(zip(found[5::2], found[6::2], strict=True))
    assert given == {
        "--host": "0.0.0.0",
        "--media-root": str(tmp_path / "my videos"),
        "--config": str(tmp_path / "serve.toml"),
    }
    if checker := shutil.which("systemd-analyze"):
        path = tmp_path / "score-edge.service"
        path.write_text(unit)
        done = subprocess.run([checker, "verify", str(path)], capture_output=True, text=True, timeout=60)
        assert "score-edge.service" not in done.stderr, done.stderr


def test_a_question_of_several_lines_is_one_line_of_a_unit() -> None:
    from score_edge.serve.systemd import systemd_unit

    unit = systemd_unit(["score-edge", "serve", "--when-surprised", 'Look.\nWhat happened at the "gate"?'])
    (line,) = (line for line in unit.splitlines() if "--when-surprised" in line)
    assert line.endswith(r'"Look.\nWhat happened at the \"gate\"?"')  # systemd.syntax(7): C-style escapes


def test_a_unit_knows_where_the_engines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from score_edge.serve.systemd import systemd_unit

    monkeypatch.setenv("XDG_CACHE_HOME", "/ssd/100% mine")
    lines = systemd_unit(["score-edge", "serve"]).splitlines()
    assert lines[lines.index("ExecStart=score-edge serve") + 1] == 'Environment="XDG_CACHE_HOME=/ssd/100%% mine"'
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "Environment=" not in systemd_unit(["score-edge", "serve"])


def test_a_server_that_is_stopped_while_it_loads_has_not_failed() -> None:
    from score_edge.cli import _TERMINATED
    from score_edge.serve.systemd import systemd_unit

    assert f"SuccessExitStatus={_TERMINATED}" in systemd_unit(["score-edge", "serve"]).splitlines()


def test_a_unit_has_cameras_but_no_password(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference", "--systemd"]
    (tmp_path / "a.mp4").touch()
    given = ["--source", "front=rtsp://camera:554", "--source", "file=a.mp4", "--source", "usb=v4l2:///dev/video0"]
    mqtt = ["--mqtt", "mqtt://eyes:hush@broker/house"]
    unit = subprocess.run([*command, *given, *mqtt], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "hush" not in unit and "--mqtt" not in unit
    given += ["--mqtt", "mqtt://broker/house"]
    unit = subprocess.run([*command, *given], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "--source front=rtsp://camera:554" in unit and "--source usb=v4l2:///dev/video0" in unit
    assert f"file={tmp_path / 'a.mp4'}" in unit and "--mqtt mqtt://broker/house" in unit
    for camera in ("me:hush@camera/live", "camera/live?user=me&password=hush", "camera/user=me&password=hush"):
        refused = subprocess.run([*command, "--source", f"front=rtsp://{camera}"], capture_output=True, text=True)
        assert refused.returncode == 1 and not refused.stdout, camera
        assert "--config" in refused.stderr and "hush" not in refused.stderr


def test_cameras_of_a_file(tmp_path: Path) -> None:
    from score_edge.serve.options import read_options

    path = tmp_path / "serve.toml"
    path.write_text('alert_above = 2\n[source]\nfront = "rtsp://me:pw@camera/live"\n')
    found = read_options(path, {})
    assert found.source == {"front": "rtsp://me:pw@camera/live"} and found.alert_above == 2.0
    assert "pw" not in repr(found)
    for text, said in (
        ('[source]\nall = "a"', "no camera may be called all"),
        ("source = 3", "source must be a table"),
    ):
        path.write_text(text)
        with pytest.raises(ScoreEdgeError, match=said):
            read_options(path, {})
    path.write_bytes(b"\xef\xbb\xbfport = 99")  # as Windows' Notepad writes it
    assert read_options(path, {}).port == 99


@pytest.mark.parametrize(
    "text",
    [
        "key = 5318008",
        'mqtt = ["mqtt://me:5318008@broker"]',
        'source = ["front=rtsp://me:5318008@camera"]',
        '[source]\nfront = ["rtsp://me:5318008@camera"]',
    ],
)
def test_a_password_in_the_wrong_place_of_a_file_is_not_shown(tmp_path: Path, text: str) -> None:
    from score_edge.serve.options import read_options

    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(ScoreEdgeError) as error:
        read_options(tmp_path / "serve.toml", {})
    assert "must be" in error.value.message and "5318008" not in str(error.value)
    assert "score-edge" not in error.value.hint  # which writes no such file
