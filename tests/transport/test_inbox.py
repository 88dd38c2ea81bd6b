"""The inbox: pykka's documented behaviour, sockets, timers, fairness, and no lost wake-ups."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from pykka._envelope import Envelope

from paxon.transport import Burst, BurstInbox
from paxon.transport.wake import Waker


class FakeSource:
    """Bursts from a list, with a real sleep on the wake descriptor."""

    def __init__(self) -> None:
        self.bursts: list[Burst[Any, Any]] = []
        self.endless: Burst[Any, Any] | None = None
        self.waits: list[float | None] = []
        self.asleep = threading.Event()

    def receive(self) -> Burst[Any, Any]:
        if self.endless is not None:
            return self.endless
        return self.bursts.pop(0) if self.bursts else Burst()

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        self.waits.append(timeout_seconds)
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        self.asleep.set()
        woken = bool(poll.poll(None if timeout_seconds is None else timeout_seconds * 1000))
        self.asleep.clear()
        return woken


class Boom(Exception):
    pass


class Probe:
    """What a test shares with its actor."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.timers = 0
        self.gate = threading.Event()
        self.entered = threading.Event()


class Recorder(pykka.ThreadingActor):
    """Keeps what it receives; understands a few orders."""

    @staticmethod
    def _create_actor_inbox() -> BurstInbox:
        return BurstInbox()

    def __init__(self, source: FakeSource | None, probe: Probe) -> None:
        super().__init__()
        self.source = source
        self.probe = probe
        self.deadline: float | None = None
        self.seen = probe.seen
        self.bursts = 0
        self.colour = "green"

    @property
    def inbox(self) -> BurstInbox:
        inbox = self.actor_inbox
        assert isinstance(inbox, BurstInbox)
        return inbox

    def on_start(self) -> None:
        if self.source is not None:
            self.inbox.attach(self.source, lambda: self.deadline, time.monotonic)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Burst):
            self.bursts += 1
            if not message:
                self.probe.timers += 1
                self.deadline = None
            return None
        if message == "boom":
            raise Boom
        if message == "block":
            self.probe.entered.set()
            self.probe.gate.wait(10)
        self.seen.append(message)
        return ("got", message)

    def set_deadline(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def on_stop(self) -> None:
        self.inbox.close()

    def on_failure(self, *_: Any) -> None:
        self.inbox.close()


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.gate.set()


@pytest.fixture(params=[True, False], ids=["with sockets", "plain queue"])
def actor(request: pytest.FixtureRequest, probe: Probe) -> Iterator[pykka.ActorRef[Recorder]]:
    ref = Recorder.start(FakeSource() if request.param else None, probe)
    yield ref
    probe.gate.set()
    ref.stop()


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def fed(source: FakeSource, probe: Probe) -> Iterator[pykka.ActorRef[Recorder]]:
    ref = Recorder.start(source, probe)
    yield ref
    ref.stop()


def test_tell_keeps_order_and_ask_answers(actor: pykka.ActorRef[Recorder]) -> None:
    for number in range(100):
        actor.tell(number)
    assert actor.ask("last", timeout=5) == ("got", "last")
    assert actor.proxy().seen.get(timeout=5) == [*range(100), "last"]


def test_ask_without_blocking_gives_a_future(actor: pykka.ActorRef[Recorder]) -> None:
    futures = [actor.ask(number, block=False) for number in range(50)]
    assert pykka.get_all(futures, timeout=5) == [("got", number) for number in range(50)]


def test_an_exception_in_an_ask_goes_to_the_asker(actor: pykka.ActorRef[Recorder]) -> None:
    with pytest.raises(Boom):
        actor.ask("boom", timeout=5)
    assert actor.ask("alive", timeout=5) == ("got", "alive")


def test_an_exception_in_a_tell_stops_the_actor(actor: pykka.ActorRef[Recorder]) -> None:
    actor.tell("boom")
    actor.actor_stopped.wait(5)
    with pytest.raises(pykka.ActorDeadError):
        actor.tell("too late")


def test_ask_times_out_while_the_actor_is_busy(
    actor: pykka.ActorRef[Recorder], probe: Probe
) -> None:
    actor.tell("block")
    with pytest.raises(pykka.Timeout):
        actor.ask("later", timeout=0.02)
    probe.gate.set()
    assert actor.ask("now", timeout=5) == ("got", "now")


def test_proxies_call_get_and_set(actor: pykka.ActorRef[Recorder]) -> None:
    proxy = actor.proxy()
    assert proxy.colour.get(timeout=5) == "green"
    proxy.colour = "blue"
    assert proxy.colour.get(timeout=5) == "blue"
    assert proxy.on_receive("called").get(timeout=5) == ("got", "called")
    with pytest.raises(Boom):
        proxy.on_receive("boom").get(timeout=5)


def test_stop_blocks_until_stopped(actor: pykka.ActorRef[Recorder], probe: Probe) -> None:
    actor.tell("before")
    assert actor.stop(block=True, timeout=5) is True
    assert probe.seen == ["before"]
    assert not actor.is_alive()
    assert actor.stop(block=True, timeout=5) is False


def test_what_is_left_after_the_stop_is_refused(
    actor: pykka.ActorRef[Recorder], probe: Probe
) -> None:
    actor.tell("block")
    assert probe.entered.wait(5)
    stopped = actor.stop(block=False)
    left = [actor.ask(number, block=False) for number in range(3)]
    second_stop = actor.ask(pykka.messages._ActorStop(), block=False)
    probe.gate.set()
    assert stopped.get(timeout=5) is True
    for future in left:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=5)
    second_stop.get(timeout=5)


def test_stop_all(actor: pykka.ActorRef[Recorder]) -> None:
    others = [Recorder.start(FakeSource(), Probe()) for _ in range(3)]
    pykka.ActorRegistry.stop_all(timeout=5)
    assert not any(ref.is_alive() for ref in (actor, *others))


def test_bursts_come_as_messages(source: FakeSource, fed: pykka.ActorRef[Recorder]) -> None:
    source.bursts += [Burst([(1, 2, ["m"])]), Burst([], [(b"t", ["q"])])]
    fed.ask("wake up", timeout=5)
    fed.ask("and once more", timeout=5)
    assert fed.proxy().bursts.get(timeout=5) == 2
    assert fed.proxy().probe.get(timeout=5).timers == 0


def test_whatever_a_burst_holds_is_handed_over(source: FakeSource) -> None:
    """What became of clients and connections may come alone, and is told once."""
    inbox = BurstInbox()
    inbox.attach(source, lambda: 0.0, time.monotonic)
    one = [b"a"]
    bursts: list[Burst[Any, Any]] = [
        Burst(lost=[1]),
        Burst(refused=one),
        Burst(ignored={*one}),
        Burst(gone=one),
    ]
    source.bursts = [*bursts]
    assert [inbox.get().message for _ in bursts] == bursts
    inbox.close()


def test_a_deadline_brings_one_empty_burst(
    source: FakeSource, fed: pykka.ActorRef[Recorder], probe: Probe
) -> None:
    begun = time.monotonic()
    fed.proxy().set_deadline(0.05).get(timeout=60)
    while not probe.timers:
        assert time.monotonic() < begun + 60
        source.asleep.wait(0.01)
    assert time.monotonic() - begun >= 0.05
    assert fed.proxy().probe.get(timeout=5).timers == 1
    assert [wait for wait in source.waits if wait is not None and 0 < wait <= 0.05]


def test_an_idle_actor_sleeps(source: FakeSource, fed: pykka.ActorRef[Recorder]) -> None:
    fed.ask("hello", timeout=5)
    assert source.asleep.wait(5)
    waits = len(source.waits)
    fed.ask("again", timeout=5)
    assert source.asleep.wait(5)
    assert len(source.waits) == waits + 1
    assert source.waits[-1] is None


def test_endless_bursts_do_not_starve_local_messages(
    source: FakeSource, fed: pykka.ActorRef[Recorder]
) -> None:
    source.endless = Burst([(1, 1, ["more"])])
    assert fed.ask("hello", timeout=5) == ("got", "hello")
    assert fed.ask("hello again", timeout=5) == ("got", "hello again")
    assert fed.stop(block=True, timeout=5) is True


def test_endless_local_messages_do_not_starve_bursts_and_timers() -> None:
    inbox, source = BurstInbox(), FakeSource()
    for number in range(200):
        inbox.put(Envelope(number))
    source.bursts = [Burst([(1, 1, ["burst"])])]
    inbox.attach(source, lambda: 0.0, time.monotonic)
    got = [inbox.get().message for _ in range(100)]
    assert source.bursts == []
    assert sum(isinstance(message, Burst) and not message for message in got) >= 3
    numbers = [message for message in got if isinstance(message, int)]
    assert numbers == list(range(len(numbers)))
    inbox.close()


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_a_waker_never_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "pipe":
        monkeypatch.delattr(os, "eventfd")  # as where there is none
    waker = Waker()
    poll = select.poll()
    poll.register(waker.descriptor, select.POLLIN)
    for times in (0, 1, 10_000):  # more than a pipe holds
        for _ in range(times):
            waker.wake()
        assert bool(poll.poll(0)) == bool(times)
        for _ in range(30):
            waker.clear()
        assert not poll.poll(0)
    waker.close()
    waker.close()


def test_put_wakes_only_a_sleeper() -> None:
    inbox, source = BurstInbox(), FakeSource()
    inbox.attach(source, lambda: None, time.monotonic)
    inbox.put(Envelope("while busy"))
    poll = select.poll()
    poll.register(inbox._waker.descriptor, select.POLLIN)
    assert poll.poll(0) == []
    assert inbox.get().message == "while busy"
    timer = threading.Timer(0.02, inbox.put, (Envelope("while asleep"),))
    timer.start()
    assert inbox.get().message == "while asleep"
    timer.join()
    assert poll.poll(0) == [], "the wake-up must be used up, or the loop would spin"
    inbox.close()


@pytest.mark.parametrize("with_source", [True, False])
def test_no_wake_up_is_lost_between_threads(with_source: bool) -> None:
    ref = Recorder.start(FakeSource() if with_source else None, Probe())
    rounds, threads = 1500, 4
    failures: list[BaseException] = []

    def talk(name: int) -> None:
        try:
            for number in range(rounds):
                if number % 3:
                    ref.tell((name, number))
                else:
                    ref.ask((name, number), timeout=10)
        except BaseException as error:
            failures.append(error)

    talkers = [threading.Thread(target=talk, args=(name,)) for name in range(threads)]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    seen = ref.proxy().seen.get(timeout=10)
    ref.stop()
    assert failures == []
    for name in range(threads):
        assert [number for who, number in seen if who == name] == list(range(rounds))


def test_after_close_what_is_there_can_be_read_and_more_be_put() -> None:
    inbox = BurstInbox()
    inbox.attach(FakeSource(), lambda: None, time.monotonic)
    inbox.put(Envelope(1))
    inbox.close()
    inbox.close()
    inbox.put(Envelope(2))
    assert not inbox.empty()
    assert [inbox.get().message, inbox.get().message] == [1, 2]
    assert inbox.empty()
    with pytest.raises(RuntimeError, match="closed"):
        inbox.get()
