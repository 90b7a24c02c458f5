"""Events reach everybody, in order; whoever does not listen loses the oldest."""

import threading

from score_edge.serve.feed import Feed, FeedEvent


def test_everybody_gets_every_event_in_order() -> None:
    feed = Feed()
    with feed.subscribe() as first, feed.subscribe() as second:
        for number in range(3):
            feed.publish("answer", {"number": number})
        for events in (first, second):
            assert [events.get(1) for _ in range(3)] == [FeedEvent("answer", {"number": n}) for n in range(3)]
            assert events.get(0) is None


def test_a_slow_reader_loses_the_oldest_and_stops_nobody() -> None:
    feed = Feed()
    with feed.subscribe() as events:
        for number in range(1000):
            feed.publish("camera", {"number": number})
        found = []
        while event := events.get(0):
            found.append(event.data["number"])
    assert found == list(range(744, 1000))


def test_an_event_wakes_whoever_waits() -> None:
    feed = Feed()
    with feed.subscribe() as events:
        threading.Timer(0.05, feed.publish, ("alert", {"id": "a"})).start()
        assert events.get(10) == FeedEvent("alert", {"id": "a"})


def test_a_subscriber_that_cannot_wait_is_told() -> None:
    feed, told = Feed(), []
    with feed.subscribe(lambda: told.append(True)):
        feed.publish("camera", {})
    feed.publish("camera", {})
    assert len(told) == 1


def test_the_end_reaches_those_who_wait_and_those_who_come_late() -> None:
    feed = Feed()
    with feed.subscribe() as events:
        feed.publish("camera", {"number": 1})
        threading.Timer(0.05, feed.close).start()
        assert events.get(10) is not None
        assert events.get(10) is None and events.closed
    with feed.subscribe() as late:
        assert late.get(10) is None and late.closed
