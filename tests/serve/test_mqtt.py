"""Cameras on MQTT, at a real mosquitto that is killed and started again. Debian: mosquitto."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from score_edge.errors import ScoreEdgeError

pytest.importorskip("fastapi")
paho = pytest.importorskip("paho.mqtt.client")

CAMERAS = ["front", "yard"]
# https://www.home-assistant.io/integrations/{mqtt,sensor.mqtt,binary_sensor.mqtt,text.mqtt}/: what each may have.
COMMON = {
    *("availability", "availability_mode", "availability_topic", "device", "device_class", "entity_category", "icon"),
    *("json_attributes_topic", "json_attributes_template", "name", "origin", "qos", "unique_id", "value_template"),
    *("enabled_by_default", "encoding", "entity_picture", "default_entity_id", "payload_available"),
}
MAY_HAVE = {
    "sensor": COMMON | {"state_topic", "options", "expire_after", "force_update", "unit_of_measurement", "state_class"},
    "binary_sensor": COMMON | {"state_topic", "off_delay", "payload_on", "payload_off", "expire_after", "force_update"},
    "text": (COMMON | {"command_topic", "command_template", "state_topic", "max", "min", "mode", "pattern", "retain"})
    - {"device_class"},
}
DEVICE = {"identifiers", "connections", "name", "manufacturer", "model", "model_id", "sw_version", "hw_version"}
ORIGIN = {"name", "sw_version", "support_url"}


class Mosquitto:
    """A broker on loopback that forgets everything when it stops."""

    def __init__(self, folder: Path, password: str = "", *, tls: bool = False) -> None:
        found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None:
            pytest.skip("mosquitto is not installed: apt install mosquitto")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(not password).lower()}"]
        if os.getuid() == 0:
            lines.append("user root")
        if tls:
            lines += [f"certfile {folder / 'broker.pem'}", f"keyfile {folder / 'broker.key'}"]
            options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
            options += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "broker.key", "-out", "broker.pem"]
            subprocess.run(["openssl", "req", *options], cwd=folder, check=True, capture_output=True)
        if password:
            subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "passwords", "eyes", password], check=True)
            lines.append(f"password_file {folder / 'passwords'}")
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._command = [found, "-c", str(folder / "mosquitto.conf")]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Network:
    """A way to the broker that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.port = self._server.getsockname()[1]

    def __enter__(self) -> "Network":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """In the middle of whatever is under way."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near = self._server.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(256):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


class Listener:
    """Everything that is published, in order, across restarts of the broker."""

    def __init__(self, port: int, user: str = "", password: str = "", tls: Path | None = None) -> None:
        self.got: list[tuple[str, str, bool]] = []
        self.connections = 0
        self._client = client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if user:
            client.username_pw_set(user, password)
        if tls:
            client.tls_set(ca_certs=str(tls))
        client.on_connect = lambda client, *_: client.subscribe("#", qos=2)
        client.on_subscribe = self._subscribed
        client.on_message = lambda _, __, m: self.got.append((m.topic, m.payload.decode(errors="replace"), m.retain))
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()
        wait_for(lambda: self.connections)

    def _subscribed(self, *_: Any) -> None:
        self.connections += 1

    def publish(self, topic: str, text: str | bytes, retain: bool = False) -> None:
        self._client.publish(topic, text, qos=1, retain=retain).wait_for_publish(5)

    def of(self, topic: str) -> list[str]:
        return [payload for found, payload, _ in self.got if found == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def wait_for(true: Callable[[], Any], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts a broker, which is stopped at the end of the test whatever happens."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Mosquitto:
            found = Mosquitto(tmp_path, **options)
            stack.callback(found.stop)
            return found

        yield start


@pytest.fixture
def broker(new_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return new_broker()


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    found = Listener(broker.port)
    yield found
    found.close()


@contextlib.contextmanager
def publishing(address: str, asked: list[tuple[str, str]] | None = None, refuses: str = "") -> Iterator[Any]:
    """A feed that is published."""
    from score_edge.serve.feed import Feed
    from score_edge.serve.mqtt import Publisher
    from score_edge.serve.mqtt_address import Broker

    def ask(camera: str, question: str) -> None:
        if refuses:
            raise ScoreEdgeError(refuses)
        (asked if asked is not None else []).append((camera, question))

    feed = Feed()
    with Publisher(Broker.parse(address), feed, CAMERAS, "reference", ask):
        yield feed


def alert(number: int) -> dict[str, Any]:
    return {"id": str(number), "camera": "front", "time": "2026-11-27T04:00:00Z", "surprise": 0.7, "text": None}


def numbers(listener: Listener) -> list[int]:
    return [int(json.loads(payload)["id"]) for payload in listener.of("score-edge/front/alert")]


def test_cameras_become_devices_of_home_assistant(broker: Mosquitto, listener: Listener) -> None:
    with publishing(f"mqtt://127.0.0.1:{broker.port}"):
        wait_for(lambda: "online" in listener.of("score-edge/status"))
    late = Listener(broker.port)  # started after everything was said: only what is retained is there
    wait_for(lambda: len([1 for topic, *_ in late.got if topic.startswith("homeassistant/")]) == 8)
    wait_for(lambda: late.of("score-edge/status") and late.of("score-edge/front/surprise"))
    late.close()
    assert all(retained for *_, retained in late.got)
    configs = {topic: json.loads(text) for topic, text, _ in late.got if topic.startswith("homeassistant/")}
    for topic, config in configs.items():
        _, component, node, entity, end = topic.split("/")
        assert end == "config" and config.keys() <= MAY_HAVE[component], topic
        assert all(sign.isalnum() or sign in "_-" for sign in node + entity)
        assert config["device"].keys() <= DEVICE and config["device"]["identifiers"]
        assert config["origin"].keys() <= ORIGIN and config["origin"]["name"]
        assert config["availability"][0] == {"topic": "score-edge/status"}
        assert "command_topic" in config if component == "text" else "state_topic" in config
    assert len({config["unique_id"] for config in configs.values()}) == 8
    assert {config["device"]["name"] for config in configs.values()} == set(CAMERAS)
    assert late.of("score-edge/status") == ["offline"]  # said on leaving
    assert late.of("score-edge/front/surprise") == ["OFF"]


def test_what_cameras_say_is_published(broker: Mosquitto, listener: Listener) -> None:
    with publishing(f"mqtt://127.0.0.1:{broker.port}/house/eyes") as feed:
        wait_for(lambda: "online" in listener.of("house/eyes/status"))
        for steps in range(3):
            feed.publish("camera", {"name": "front", "state": "live", "reason": None, "steps": steps})
        wait_for(lambda: listener.of("house/eyes/front/state"))
        feed.publish("alert", alert(1))
        feed.publish("answer", {"camera": "front", "time": "t", "question": "what?", "answer": "a ball — ja"})
        feed.publish("answer", {"camera": "", "time": "t", "question": "where?", "answer": "both"})
        feed.publish("camera", {"name": "front", "state": "lost", "reason": "no picture for 5 s", "steps": 3})
        wait_for(lambda: len(listener.of("house/eyes/front/state")) == 2 and listener.of("house/eyes/all/answer"))
    states = [json.loads(text) for text in listener.of("house/eyes/front/state")]
    assert states == [{"state": "live", "reason": None}, {"state": "lost", "reason": "no picture for 5 s"}]
    assert listener.of("house/eyes/front/surprise") == ["OFF", "ON"]
    assert json.loads(listener.of("house/eyes/front/alert")[0])["surprise"] == 0.7
    assert json.loads(listener.of("house/eyes/front/answer")[0])["answer"] == "a ball — ja"


def test_nothing_is_published_twice_when_the_broker_comes_back(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while events are under way, and started again without knowing anything."""
    listener = Listener(broker.port)
    with publishing(f"mqtt://127.0.0.1:{broker.port}") as feed:
        feed.publish("camera", {"name": "front", "state": "live", "reason": None})
        wait_for(lambda: listener.of("score-edge/front/state"))
        for number in range(60):
            feed.publish("alert", alert(number))
            time.sleep(0.002)
        broker.stop()
        for number in range(60, 70):
            feed.publish("alert", alert(number))
        feed.publish("camera", {"name": "front", "state": "lost", "reason": "gone"})
        time.sleep(0.3)
        before = len(listener.of("score-edge/front/surprise"))
        broker.start()
        wait_for(lambda: "is there again" in caplog.text and listener.connections == 2, 20)
        feed.publish("alert", alert(70))
        wait_for(lambda: 70 in numbers(listener))
    found = numbers(listener)
    assert sorted(set(found)) == found
    # A broker repeats what it retains to whoever comes back; such messages are marked.
    states = [
        (json.loads(text)["state"], old) for topic, text, old in listener.got if topic == "score-edge/front/state"
    ]
    fresh = [state for state, old in states if not old]
    assert states[-1][0] == "lost" and sorted(set(fresh)) == sorted(fresh)
    assert listener.of("score-edge/front/surprise")[before:].count("ON") <= 1  # of those that are past none
    assert caplog.text.count("trying again") == 1 and caplog.text.count("is there again") == 1
    late = Listener(broker.port)
    wait_for(lambda: len([topic for topic, *_ in late.got if topic.startswith("homeassistant/")]) == 8)
    for each in (late, listener):
        each.close()


def test_everything_is_published_once_over_a_network_that_breaks(broker: Mosquitto, listener: Listener) -> None:
    """Cut again and again while events are under way: what the broker has seen half is finished, not repeated."""
    with Network(broker.port) as network, publishing(f"mqtt://127.0.0.1:{network.port}") as feed:
        wait_for(lambda: "online" in listener.of("score-edge/status"))
        for number in range(200):
            feed.publish("alert", alert(number))
            time.sleep(0.002)
            if number % 50 == 30:
                network.cut()
                time.sleep(0.1 if number % 100 == 30 else 1.5)
        wait_for(lambda: 199 in numbers(listener))
        wait_for(lambda: listener.of("score-edge/status")[-1] == "online")
    assert numbers(listener) == list(range(200))
    assert listener.of("score-edge/status").count("online") > 2
    assert len([topic for topic, *_ in listener.got if topic.startswith("homeassistant/")]) == 8  # once, too


def test_the_last_will_says_offline(broker: Mosquitto, listener: Listener) -> None:
    program = (
        "import sys, time\n"
        "from score_edge.serve.feed import Feed\n"
        "from score_edge.serve.mqtt import Publisher\n"
        "from score_edge.serve.mqtt_address import Broker\n"
        "with Publisher(Broker.parse(sys.argv[1]), Feed(), ['front'], 'reference', print):\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, f"mqtt://127.0.0.1:{broker.port}"]) as process:
        wait_for(lambda: listener.of("score-edge/status") == ["online"], 30)
        process.kill()
    wait_for(lambda: listener.of("score-edge/status") == ["online", "offline"])
    late = Listener(broker.port)
    wait_for(lambda: late.of("score-edge/status") == ["offline"])
    late.close()


def test_questions_come_over_mqtt(broker: Mosquitto, listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[str, str]] = []
    listener.publish("score-edge/front/ask", "an old one", retain=True)
    with publishing(f"mqtt://127.0.0.1:{broker.port}", asked):
        wait_for(lambda: "online" in listener.of("score-edge/status"))
        for topic, text in (
            ("front", "what moved?"),
            ("nobody", "what moved?"),
            ("front", "  "),
            ("front", "x" * 5000),
            ("front", b"\xff\xfe"),
            ("all", "where is it?"),
        ):
            listener.publish(f"score-edge/{topic}/ask", text)
        wait_for(lambda: len(asked) == 2)
    assert asked == [("front", "what moved?"), ("all", "where is it?")]
    with publishing(f"mqtt://127.0.0.1:{broker.port}", refuses="eight questions wait already"):
        time.sleep(0.5)
        listener.publish("score-edge/front/ask", "a private question")
        wait_for(lambda: "eight questions wait" in caplog.text)
    assert "private" not in caplog.text


def test_a_server_publishes_its_cameras_and_answers(broker: Mosquitto, listener: Listener, served: Any) -> None:
    pytest.importorskip("llama_cpp")
    address = f"mqtt://127.0.0.1:{broker.port}/house"
    with served(source={"front": "synthetic://?live=1"}, mqtt=address, alert_above=0.01):
        wait_for(lambda: '"live"' in (listener.of("house/front/state") or [""])[-1], 30)
        listener.publish("house/front/ask", "how many things moved fast?")
        wait_for(lambda: listener.of("house/front/answer"), 30)
        wait_for(lambda: listener.of("house/front/alert"), 30)
    answer = json.loads(listener.of("house/front/answer")[0])
    assert answer["question"] == "how many things moved fast?" and answer["answer"] and answer["time"]
    assert "ON" in listener.of("house/front/surprise") and "front" in json.dumps(listener.got)
    wait_for(lambda: listener.of("house/status")[-1] == "offline")


def test_a_password_is_used_and_never_shown(
    new_broker: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    from score_edge.serve.mqtt_address import Broker

    secret = "s3cr/t@ w%rd"
    quoted = "s3cr%2Ft%40%20w%25rd"
    broker = new_broker(password=secret)
    listener = Listener(broker.port, "eyes", secret)
    with publishing(f"mqtt://eyes:{quoted}@127.0.0.1:{broker.port}"):
        wait_for(lambda: "online" in listener.of("score-edge/status"))
    with publishing(f"mqtt://eyes:wrong-{quoted}@127.0.0.1:{broker.port}") as feed:
        feed.publish("alert", alert(1))  # and whoever publishes does not wait
        wait_for(lambda: "refuses us: Not authorized" in caplog.text)
    assert secret not in caplog.text and quoted not in caplog.text and "eyes" not in caplog.text
    address = Broker.parse(f"mqtt://eyes:{quoted}@127.0.0.1:{broker.port}")
    assert address.password == secret
    assert "s3cr" not in f"{address} {address!r}" and str(address) == f"mqtt://127.0.0.1:{broker.port}/score-edge"
    listener.close()


def test_the_certificate_of_a_broker_is_checked(
    new_broker: Callable[..., Mosquitto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    broker = new_broker(tls=True)
    with publishing(f"mqtts://127.0.0.1:{broker.port}"):
        wait_for(lambda: "cannot be reached: self-signed certificate" in caplog.text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "broker.pem"))
    with publishing(f"mqtts://127.0.0.1:{broker.port}"):
        listener = Listener(broker.port, tls=tmp_path / "broker.pem")
        wait_for(lambda: listener.of("score-edge/status") == ["online"])
        listener.close()


def test_a_broker_that_is_away_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        before = threading.active_count()
        with publishing(f"mqtt://127.0.0.1:{taken.getsockname()[1]}"):
            wait_for(lambda: "cannot be reached: Connection refused" in caplog.text)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "address",
    [
        "",
        "broker",
        "http://broker",
        "mqtt://",
        "mqtt://me:pa/ss@broker",
        "mqtt://me:hush@broker:99999",
        "mqtt://me:hush@broker/a/+/b",
        "mqtt://me:hush@broker/a#b",
        "mqtt://me:hush@broker/$SYS",
        "mqtt://me:hush@broker/a//b",
        "mqtt://me:hush@broker?x=1",
        "mqtt://[me:hush@broker",
        "mqtt://me:hush@a..b",
        f"mqtt://me:hush@{'a' * 70}",
    ],
)
def test_what_is_no_address_is_refused_without_showing_it(address: str) -> None:
    from score_edge.serve.mqtt_address import Broker

    with pytest.raises(ScoreEdgeError) as error:
        Broker.parse(address)
    assert "hush" not in str(error.value) and "pa/ss" not in str(error.value)


def test_templates_give_what_home_assistant_takes() -> None:
    """Jinja, as there; a state of more than 255 characters would be refused."""
    jinja2 = pytest.importorskip("jinja2")
    from score_edge.serve.home_assistant import STATES, discovery

    configs = {topic.split("/")[3]: config for topic, config in discovery("score-edge", "front", "m")}

    def render(template: str, **value: str) -> str:
        return str(jinja2.Environment(autoescape=False).from_string(template).render(value_json=value))

    assert render(configs["answer"]["value_template"], answer="x" * 1000) == "x" * 255
    assert render(configs["answer"]["value_template"], answer="a <b> & c") == "a <b> & c"
    (live,) = configs["surprise"]["availability"][1:]
    assert [render(live["value_template"], state=state) for state in STATES] == [
        "offline",
        "online",
        "offline",
        "offline",
    ]
    assert render(configs["state"]["value_template"], state="lost") in configs["state"]["options"]


def test_names_of_any_script_have_identifiers_of_their_own() -> None:
    from score_edge.serve.home_assistant import discovery

    topics = [topic for name in ("tür", "t_r", "tor.1", "tor_1") for topic, _ in discovery("a/b", name, "m")]
    assert len(set(topics)) == 16 and all(topic.isascii() and topic.count("/") == 4 for topic in topics)
