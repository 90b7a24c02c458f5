"""Where an MQTT broker is, in a type that cannot be printed with its password."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from score_edge.errors import ScoreEdgeError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_EXAMPLE: Final = "mqtt://user:password@broker:1883/score-edge; in a password @ / ? # are written %40 %2F %3F %23"


@dataclass(frozen=True, slots=True)
class Broker:
    """An MQTT broker, and below which topic to publish there.

    Attributes:
        tls: encrypted, and the broker's certificate is checked.
        prefix: of every topic, without a slash at its ends.
        user, password: empty for none.
    """

    host: str
    port: int
    tls: bool
    prefix: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> "Broker":
        """Read ``mqtt://user:password@host:port/prefix``; all but the host may be left out. ``mqtts`` is MQTT over TLS.

        Raises:
            ScoreEdgeError: it is none. The message does not repeat it: there may be a password in it.

        Example:
            >>> print(Broker.parse("mqtts://me:p%40ss@broker/house/eyes"))
            mqtts://broker:8883/house/eyes
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")  # as the connection will do
        except ValueError:
            raise ScoreEdgeError("the address of the MQTT broker cannot be read", _EXAMPLE) from None
        if parts.scheme not in _PORTS or not host or parts.query or parts.fragment or port == 0:
            raise ScoreEdgeError("the address of the MQTT broker must be mqtt:// or mqtts:// and a host", _EXAMPLE)
        prefix = unquote(parts.path).strip("/") or "score-edge"
        if any(sign in prefix for sign in "+#\0") or prefix.startswith("$") or "//" in prefix or len(prefix) > 200:
            raise ScoreEdgeError("the topic behind the MQTT broker's address cannot be one", "mqtt://broker/house/eyes")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", prefix, user, password)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}/{self.prefix}"
