"""One at a time, by weight, and nobody waits for ever."""

import contextlib
import threading
import time
from collections import Counter
from typing import Any

import pytest

from score_edge.runtime.turns import STEPS, Turns


def work(turn: Turns, seconds: float, until: float, weight: float, spent: Counter[str], name: str, rest: float) -> None:
    with turn.weighing(weight):
        while time.monotonic() < until:
            with turn:
                time.sleep(seconds)
            spent[name] += 1
            if rest:
                time.sleep(rest)


def run(turn: Turns, *workers: tuple[str, float, float, float], seconds: float = 1.5) -> Counter[str]:
    """How many turns each took; of a worker: name, seconds of a turn, weight, rest between two."""
    until, spent = time.monotonic() + seconds, Counter[str]()
    threads = [
        threading.Thread(target=work, args=(turn, takes, until, weight, spent, name, rest))
        for name, takes, weight, rest in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent


def test_time_is_shared_by_weight_however_long_turns_are() -> None:
    spent = run(Turns(), ("steps", 0.005, STEPS, 0), ("client", 0.02, 1, 0))
    time_of_steps, time_of_client = 0.005 * spent["steps"], 0.02 * spent["client"]
    assert time_of_steps / (time_of_steps + time_of_client) == pytest.approx(STEPS / (STEPS + 1), abs=0.06)


def test_who_wants_little_waits_for_one_turn_and_who_wants_much_gets_the_rest() -> None:
    alone = run(Turns(), ("steps", 0.005, STEPS, 0.05))
    beside = run(Turns(), ("steps", 0.005, STEPS, 0.05), *((f"client {i}", 0.01, 1, 0) for i in range(4)))
    assert beside["steps"] >= 0.75 * alone["steps"]
    clients = [beside[f"client {i}"] for i in range(4)]
    assert sum(clients) * 0.01 > 0.8 and max(clients) <= min(clients) + 2


def test_a_turn_within_a_turn() -> None:
    turn, inside = Turns(), list[int]()
    with turn, turn.weighing(STEPS), turn:
        other = threading.Thread(target=lambda: turn.__enter__() and inside.append(1))
        other.start()
        time.sleep(0.05)
        assert not inside
    other.join(5)
    assert inside


def test_who_is_interrupted_in_front_of_others_wakes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the main thread was next: an encoder's thread that waits behind it must not wait for ever."""
    turn, inside = Turns(), threading.Event()
    usual = turn._wait_s

    def interrupted(me: Any) -> float | None:
        if me.weight == STEPS and turn._owner is None:
            raise KeyboardInterrupt
        return usual(me)

    monkeypatch.setattr(turn, "_wait_s", interrupted)

    def behind() -> None:
        with turn:
            inside.set()

    def in_front() -> None:
        with contextlib.suppress(KeyboardInterrupt), turn.weighing(STEPS), turn:
            pass

    with turn:
        for count, work in enumerate((behind, in_front), 1):
            threading.Thread(target=work, daemon=True).start()
            while len(turn._waiting) < count:
                time.sleep(0.001)
        time.sleep(0.05)
    assert inside.wait(2)


def test_one_at_a_time() -> None:
    turn, inside, most = Turns(), Counter[str](), list[int]()

    def enter() -> None:
        for _ in range(200):
            with turn:
                inside["now"] += 1
                most.append(inside["now"])
                inside["now"] -= 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) == 1600
