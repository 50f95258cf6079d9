"""A shelf keeps what was used last, within its budget, and loads a thing once for all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from graft.serving.shelf import Shelf


def test_the_least_recently_used_goes_first_and_the_budget_holds() -> None:
    shelf, loaded = Shelf[str](10, len), list[str]()

    def take(thing: str) -> None:
        assert shelf.take(thing[0], lambda: loaded.append(thing) or thing) == thing
        assert shelf.bytes <= shelf.budget

    for thing in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        take(thing)
    assert loaded == ["aaaa", "bbbb", "cccc", "bbbb"]  # c took b's place, and b then c's
    assert (shelf.find("a"), shelf.find("c"), shelf.bytes) == ("aaaa", None, 8)
    take("d" * 10)
    assert (shelf.find("a"), shelf.bytes) == (None, 10)
    take("e" * 11)  # larger than all of it: handed out, and nothing goes for it
    assert (shelf.find("e"), shelf.bytes) == (None, 10)
    shelf.drop("d")
    shelf.drop("d")
    assert shelf.bytes == 0


def test_a_thing_that_many_wait_for_is_loaded_once_and_holds_up_no_other() -> None:
    shelf, loads, go_on = Shelf[str](10, len), list[str](), threading.Event()

    def slow() -> str:
        loads.append("slow")
        go_on.wait(60)
        return "slow"

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(shelf.take, "slow", slow) for _ in range(3)]
        assert pool.submit(shelf.take, "quick", lambda: "quick").result(60) == "quick"
        go_on.set()
        assert [one.result(60) for one in waiting] == ["slow"] * 3
    assert loads == ["slow"]


def test_a_load_that_fails_is_tried_again() -> None:
    shelf = Shelf[str](10, len)

    def fails() -> str:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="away"):
        shelf.take("a", fails)
    assert shelf.take("a", lambda: "a") == "a"
