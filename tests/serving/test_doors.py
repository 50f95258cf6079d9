"""Places, memory and time: there is always room for one more caller, and nobody waits for long."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from graft.serving import doors as module
from graft.serving.doors import Doors, Refused, Share, caller_of
from graft.serving.exchange import Exchange
from graft.serving.limits import Limits


@settings(max_examples=30)
@given(st.integers(2, 40), st.lists(st.sampled_from("abcd"), max_size=80))
def test_nobody_takes_more_than_is_left_for_others(size: int, callers: list[str]) -> None:
    share = Share(size, "places")
    taken = Counter[str]()
    for caller in callers:
        free = size - taken.total()
        if free and taken[caller] < max(free, 1):
            share.take(caller, 1)
            taken[caller] += 1
            continue
        with pytest.raises(Refused) as refusal:
            share.take(caller, 1)
        assert refusal.value.status_code == (429 if free else 503)
        assert refusal.value.headers == {"Retry-After": "1"}
    for caller, amount in taken.items():
        share.give(caller, amount)
    share.take("a", size)  # all of it is back


def test_alone_a_caller_has_half() -> None:
    share = Share(10, "places")
    for _ in range(5):
        share.take("a", 1)
    with pytest.raises(Refused, match="your share of places"):
        share.take("a", 1)
    share.take("b", 1)


def test_a_caller_is_a_key_or_the_address_that_haproxy_saw() -> None:
    def request(headers: list[tuple[bytes, bytes]], key: str | None = None) -> Request:
        exchange = Exchange("POST", "/", "order-7", None, key=key)
        scope = {"type": "http", "headers": headers, "client": ("127.0.0.1", 9)}
        return Request({**scope, "state": {"exchange": exchange}})

    assert caller_of(request([])) == "127.0.0.1"
    assert caller_of(request([(b"x-graft-client", b"192.0.2.7")])) == "192.0.2.7"
    assert caller_of(request([(b"x-graft-client", b"192.0.2.7")], "lab")) == "key lab"


def test_what_a_request_took_is_given_back_whatever_happens() -> None:
    doors = Doors(Limits(places=4, held_bytes=100))
    for _ in range(10):
        with contextlib.suppress(ZeroDivisionError), doors.place("a") as held:
            held.grow(60)
            raise ZeroDivisionError
    with doors.place("a") as first, doors.place("b") as second:
        first.grow(60)
        with pytest.raises(Refused) as refusal:
            second.grow(60)
        assert refusal.value.status_code == 503
        second.grow(40)


def test_a_request_that_would_wait_for_too_long_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count()  # one second between two looks
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    doors = Doors(Limits(wait_s=10))

    async def fills_up() -> None:
        for _ in range(5):
            async with doors.at_work("a"):
                pass  # each answer takes a second
        async with AsyncExitStack() as stack:
            for number in range(11):
                with doors.place(str(number)):
                    await stack.enter_async_context(doors.at_work(str(number)))
            with pytest.raises(Refused, match="would take 11 s") as refusal, doors.place("new"):
                pytest.fail("it came in")
            assert refusal.value.status_code == 503
            assert refusal.value.headers == {"Retry-After": "6"}
        with doors.place("later"):
            pass

    asyncio.run(fills_up())


def test_nobody_has_others_wait_for_longer_than_is_left_for_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of ten seconds a caller alone takes five or one more, and the next one finds the others."""
    clock = itertools.count()
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    doors = Doors(Limits(wait_s=10))

    async def asks_for_all() -> None:
        async with doors.at_work("a"):
            pass  # takes a second
        async with AsyncExitStack() as stack:
            for _ in range(6):
                with doors.place("a"):
                    await stack.enter_async_context(doors.at_work("a"))
            with (
                pytest.raises(Refused, match="asked before takes 6 s") as refusal,
                doors.place("a"),
            ):
                pytest.fail("it came in")
            assert refusal.value.status_code == 429
            assert refusal.value.headers == {"Retry-After": "3"}
            with doors.place("b"):
                pass

    asyncio.run(asks_for_all())


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    doors = Doors(Limits(answer_s=0.01))

    async def hangs() -> None:
        with pytest.raises(Refused, match="no answer within 0 s") as refusal:
            async with doors.at_work("a"):
                await asyncio.Event().wait()
        assert refusal.value.status_code == 503

    asyncio.run(hangs())


def body_of(*chunks: bytes, stops: bool = False, **headers: str) -> Request:
    """A request whose body comes in these chunks; with `stops` the end never comes."""
    coming: Iterator[bytes] = iter(chunks)

    async def receive() -> Message:
        chunk = next(coming, None)
        if chunk is None and stops:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


def read(limits: Limits, request: Request) -> bytes:
    async def once() -> bytes:
        doors = Doors(limits)
        with ExitStack() as stack:
            return await doors.read_body(request, stack.enter_context(doors.place("a")))

    return asyncio.run(once())


def test_a_body_is_read_in_the_time_that_its_size_takes() -> None:
    patient = Limits(patience_s=60)
    assert read(patient, body_of(b"one ", b"and ", b"two", content_length="11")) == b"one and two"
    assert read(patient, body_of(b"one ", b"and ", b"two")) == b"one and two"
    with pytest.raises(Refused, match="too slowly: 4 bytes so far, expected 50,000") as refusal:
        read(Limits(patience_s=0.01), body_of(b"slow", stops=True))
    assert refusal.value.status_code == 408
    assert Limits().body_seconds(20_000_000) == 410


@pytest.mark.parametrize("headers", [{}, {"content_length": "12"}])
def test_bodies_have_room_in_memory_or_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refused, match="memory for requests") as refusal:
        read(Limits(held_bytes=10), body_of(b"123456", b"123456", **headers))
    assert refusal.value.status_code in (429, 503)
