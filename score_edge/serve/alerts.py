"""What surprised a camera: the newest hundred, each with its picture."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

_MOST = 100


@dataclass(slots=True)
class Alert:
    """A surprise.

    Attributes:
        id: not to be guessed, and never used again.
        time: ISO 8601.
        surprise: kept tokens over their usual number.
        text: the answer to what is asked at every alert; None while there is none.
        picture: JPEG.
    """

    id: str
    camera: str
    time: str
    surprise: float
    text: str | None
    picture: bytes

    def to_json(self) -> dict[str, Any]:
        """Everything but the picture."""
        return {
            "id": self.id,
            "camera": self.camera,
            "time": self.time,
            "surprise": round(self.surprise, 2),
            "text": self.text,
        }


class Alerts:
    """A bounded list; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alerts: OrderedDict[str, Alert] = OrderedDict()

    def add(self, camera: str, time: str, surprise: float, picture: bytes) -> Alert:
        """A new one; the oldest leaves."""
        alert = Alert(secrets.token_hex(8), camera, time, surprise, None, picture)
        with self._lock:
            self._alerts[alert.id] = alert
            if len(self._alerts) > _MOST:
                self._alerts.popitem(last=False)
        return alert

    def get(self, key: str) -> Alert | None:
        """One that is still there."""
        return self._alerts.get(key)

    def newest_first(self) -> list[Alert]:
        """All that are there."""
        with self._lock:
            return list(self._alerts.values())[::-1]
