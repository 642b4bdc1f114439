"""The mailbox as a plain class, without Ray."""

from __future__ import annotations

import asyncio
import time

from dualprune.cluster.mailbox import Mailbox


def test_events_are_taken_once_and_in_order() -> None:
    """All that are there, without waiting."""

    async def script() -> None:
        box = Mailbox()
        for number in range(3):
            await box.tell(number, "rank", number + 1)
        assert await box.take(0, 10.0) == [0, 1, 2]
        assert await box.take(3, 0.01) == []

    asyncio.run(script())


def test_events_that_overtook_each_other_or_came_twice_are_in_order_and_there_once() -> None:
    """By the numbers that each sender gives its own; senders do not wait for each other."""

    async def script() -> None:
        box = Mailbox()
        early = [asyncio.create_task(box.tell(number, "one", number)) for number in (3, 2)]
        await box.tell("other", "two", 1)
        assert await box.take(0, 0.01) == ["other"]
        await box.tell(1, "one", 1)
        await asyncio.gather(*early)
        for number in (1, 2, 3):
            await box.tell(number, "one", number)
        assert await box.take(1, 0.01) == [1, 2, 3]

    asyncio.run(script())


def test_take_waits_for_the_first_event() -> None:
    """And returns with it long before its timeout."""

    async def script() -> None:
        box = Mailbox()
        taking = asyncio.create_task(box.take(0, 30.0))
        await asyncio.sleep(0.01)
        assert not taking.done()
        began = time.monotonic()
        await box.tell("event", "rank", 1)
        assert await taking == ["event"]
        assert time.monotonic() - began < 10.0

    asyncio.run(script())


def test_an_answer_that_was_lost_is_given_again() -> None:
    """Until the one who asks has seen it; an older question brings nothing back."""

    async def script() -> None:
        box = Mailbox()
        for number in range(3):
            await box.tell(number, "rank", number + 1)
        assert await box.take(0, 1.0) == await box.take(0, 1.0) == [0, 1, 2]
        assert await box.take(2, 1.0) == [2]
        assert await box.take(0, 1.0) == [2]

    asyncio.run(script())


def test_take_gives_up_after_its_timeout() -> None:
    """With no events, and nothing is lost of those that come later."""

    async def script() -> None:
        box = Mailbox()
        assert await box.take(0, 0.01) == []
        await box.tell("late", "rank", 1)
        assert await box.take(0, 0.01) == ["late"]

    asyncio.run(script())


def test_each_rank_is_given_the_same_orders() -> None:
    """By number, waiting for those that are not there yet; another incarnation's are not seen."""

    async def script() -> None:
        box = Mailbox()
        ranks = [asyncio.create_task(box.order("attempt", number)) for number in (0, 0, 1)]
        other = asyncio.create_task(box.order("other", 0))
        await asyncio.sleep(0.01)
        await box.give("attempt", "first")
        assert await asyncio.gather(*ranks[:2]) == ["first", "first"]
        assert not ranks[2].done()
        await box.give("attempt", None)
        assert await ranks[2] is None
        assert await box.order("attempt", 0) == "first"
        assert not other.done()
        await box.give("other", "its own")
        assert await other == "its own"

    asyncio.run(script())


def test_an_incarnation_hears_that_it_is_to_stop() -> None:
    """Also when it asks only afterwards; another one does not."""

    async def script() -> None:
        box = Mailbox()
        asking, other = asyncio.create_task(box.stopped("attempt")), asyncio.create_task(box.stopped("other"))
        await asyncio.sleep(0.01)
        assert not asking.done()
        await box.stop("attempt")
        await asking
        await box.stopped("attempt")
        assert not other.done()
        await box.stop("other")
        await other

    asyncio.run(script())
