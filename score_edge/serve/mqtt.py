"""Cameras on MQTT: what they see and answer, for Home Assistant and whoever else listens at a broker.

Everything that happens once is published once, in order: MQTT 5, QoS 2, one message under way at a time, and a session
that outlives a lost connection, so that what the broker has half is finished and not sent again.
"""

import json
import logging
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from score_edge.serve.feed import Feed, FeedEvent
from score_edge.serve.home_assistant import discovery
from score_edge.serve.mqtt_address import Broker

_LOG = logging.getLogger(__name__)
_KEEPALIVE_S: Final = 20
_SESSION_S: Final = 3600  # for as long a broker remembers what is under way
_RETRY_S: Final = (1, 60)
_WAITING: Final = 100  # events that happen while the broker is away: the newest
_QUESTION: Final = 2000  # characters
_LOOK_S: Final = 0.2
_FAREWELL_S: Final = 2.0

Ask: TypeAlias = Callable[[str, str], None]


class _Message(NamedTuple):
    topic: str
    payload: str
    qos: int = 2
    retain: bool = False


class Publisher:
    """Publishes a feed until it is closed; use it in a ``with`` block.

    Args:
        broker: where to; it may be away, now or later.
        feed: what to publish.
        cameras: by name.
        model: the bundle's name.
        ask: called with a camera's name, or ``all``, and a question that came over MQTT; must not block.
    """

    def __init__(self, broker: Broker, feed: Feed, cameras: Sequence[str], model: str, ask: Ask) -> None:
        self._broker, self._feed, self._cameras, self._model, self._ask = broker, feed, tuple(cameras), model, ask
        self._status = f"{broker.prefix}/status"
        self._ended = threading.Event()
        self._said = ""
        self._connected = self._unknown = self._greeting = False  # set by paho's thread
        self._acknowledged: set[int] = set()
        self._under_way: tuple[int, _Message] | None = None  # from here on the publishing thread's own
        self._first: deque[_Message] = deque()
        self._waiting: deque[_Message] = deque(maxlen=_WAITING)
        self._states: dict[str, str] = {}
        self._published: dict[str, str] = {}
        self._client = self._new_client()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def __enter__(self) -> "Publisher":
        """Connect, and go on trying where that fails."""
        properties = _session(PacketTypes.CONNECT, _SESSION_S)
        self._client.connect_async(self._broker.host, self._broker.port, _KEEPALIVE_S, properties=properties)
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Publish what has happened, say that we are offline, and end."""
        self._ended.set()
        self._thread.join()
        self._client.disconnect(properties=_session(PacketTypes.DISCONNECT, 0))
        self._client.loop_stop()

    def _new_client(self) -> paho.Client:
        name = f"score-edge-{secrets.token_hex(8)}"
        client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        if self._broker.user or self._broker.password:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.tls:
            client.tls_set()
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.reconnect_delay_set(*_RETRY_S)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_message = self._on_disconnect, self._on_message
        client.on_publish = lambda client, data, mid, *_: self._acknowledged.add(mid)
        return client

    def _run(self) -> None:
        with self._feed.subscribe() as events:
            while not (self._ended.is_set() or events.closed):
                event = events.get(_LOOK_S)
                while event:
                    self._take(event)
                    event = events.get(0)
                self._publish(_LOOK_S)
        self._waiting.append(_Message(self._status, "offline", retain=True))
        self._publish(_FAREWELL_S)

    def _take(self, event: FeedEvent) -> None:
        data = dict(event.data)
        camera = data.pop("camera", "") or data.pop("name", "") or "all"
        topic = f"{self._broker.prefix}/{camera}"
        if event.kind == "camera":
            self._states[f"{topic}/state"] = json.dumps({"state": data["state"], "reason": data.get("reason")})
        elif event.kind == "answer":
            self._waiting.append(_Message(f"{topic}/answer", json.dumps(data), retain=True))
        elif event.kind == "alert":
            self._waiting.append(_Message(f"{topic}/alert", json.dumps(data)))
            # What is long past is no surprise any more, nor is what was answered about it.
            if self._connected and not (self._unknown or self._first or data.get("text")):
                self._client.publish(f"{topic}/surprise", "ON", qos=0)

    def _publish(self, seconds: float) -> None:
        """Send one message after the other; after so many seconds without an acknowledgement go on some other time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._unknown:
                self._unknown = False
                self._first = deque(self._introduction())
                # paho sends again what was under way
                self._published = dict([self._under_way[1][:2]]) if self._under_way else {}
            if self._under_way and self._under_way[0] in self._acknowledged:
                self._under_way = None
                self._acknowledged.clear()
            if self._under_way is not None:
                time.sleep(0.002)
                continue
            message = self._next() if self._connected else None
            if message is None:
                return
            self._under_way = self._client.publish(*message).mid, message
            until = time.monotonic() + seconds

    def _next(self) -> _Message | None:
        if self._first:
            return self._first.popleft()
        if self._greeting:
            self._greeting = False
            return _Message(self._status, "online", retain=True)
        for topic, state in self._states.items():
            if self._published.get(topic) != state:
                self._published[topic] = state
                return _Message(topic, state, retain=True)
        return self._waiting.popleft() if self._waiting else None

    def _introduction(self) -> Iterator[_Message]:
        """What a broker must know that knows nothing, or nothing any more."""
        for camera in self._cameras:
            for topic, config in discovery(self._broker.prefix, camera, self._model):
                yield _Message(topic, json.dumps(config), retain=True)
            yield _Message(f"{self._broker.prefix}/{camera}/surprise", "OFF", retain=True)

    def _on_connect(
        self, client: paho.Client, data: Any, flags: paho.ConnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._say(f"refuses us: {reason}")
            return
        self._say("")
        client.subscribe(f"{self._broker.prefix}/+/ask", qos=0)
        self._unknown = not flags.session_present or self._unknown
        self._greeting = self._connected = True

    def _on_disconnect(self, client: paho.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._connected = False
        if reason.is_failure and not self._said:
            self._say(f"is lost: {reason}")

    def _on_connect_fail(self, client: paho.Client, data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this where it has caught it
        why = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or type(error).__name__
        self._say(f"cannot be reached: {why}")

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        camera = message.topic.split("/")[-2]
        try:
            question = message.payload.decode().strip()
        except ValueError:
            question = ""
        # A retained question was put long ago, and would be put again at every connection.
        if message.retain or camera not in (*self._cameras, "all") or not 0 < len(question) <= _QUESTION:
            return
        try:
            self._ask(camera, question)
        except Exception as error:  # the connection goes on; without its words: they may be the question's
            why = getattr(error, "message", type(error).__name__)
            _LOG.warning("a question over MQTT was not taken: %s", why)

    def _say(self, what: str) -> None:
        """Warn about every change for the worse, and when all is well again."""
        if what and what != self._said:
            _LOG.warning("the MQTT broker %s %s; trying again", self._broker, what)
        elif self._said and not what:
            _LOG.warning("the MQTT broker %s is there again", self._broker)
        self._said = what


def _session(packet: int, seconds: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = seconds
    return properties
