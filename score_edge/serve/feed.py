"""What the cameras of a server tell whoever listens: browsers, MQTT. A slow listener loses events and stops nobody."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_MOST = 256


class FeedEvent(NamedTuple):
    """Something happened: `kind` is camera, alert or answer, `data` as docs/serve.md describes it, ready for JSON."""

    kind: str
    data: dict[str, Any]


class Subscription:
    """The events of one listener, the newest 256 of those it has not taken.

    Args:
        on_event: called after every event, from the thread that published it; must not block.
    """

    def __init__(self, on_event: Callable[[], None] | None = None) -> None:
        self._on_event = on_event or (lambda: None)
        self._events: deque[FeedEvent] = deque(maxlen=_MOST)
        self._changed = threading.Condition()
        self.closed = False

    def get(self, timeout_s: float | None = None) -> FeedEvent | None:
        """The oldest event; None where none comes in time (None waits for ever) or the feed is `closed`."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self.closed, timeout_s)
            return self._events.popleft() if self._events else None

    def put(self, event: FeedEvent | None) -> None:
        """Add an event; None says that there are no more."""
        with self._changed:
            if event is None:
                self.closed = True
            else:
                self._events.append(event)
            self._changed.notify_all()
        self._on_event()


class Feed:
    """Gives every event to every subscription.

    Example:
        >>> feed = Feed()
        >>> with feed.subscribe() as events:
        ...     feed.publish("answer", {"camera": "front"})
        ...     events.get(1)
        FeedEvent(kind='answer', data={'camera': 'front'})
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._closed = False

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Tell everybody; from any thread, without waiting for anybody."""
        for subscription in self._subscriptions:
            subscription.put(FeedEvent(kind, data))

    @contextlib.contextmanager
    def subscribe(self, on_event: Callable[[], None] | None = None) -> Iterator[Subscription]:
        """Events from now on, see `Subscription`."""
        subscription = Subscription(on_event)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
            if self._closed:
                subscription.put(None)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)

    def close(self) -> None:
        """There are no more events."""
        with self._lock:
            self._closed = True
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription.put(None)
