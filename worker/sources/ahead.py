"""Asking ahead: the next groups of messages are on their way while one is read, so that a far server's wire is never idle.

As much is asked for ahead as a fast wire holds on a long way, however small the messages are; and never so much that a server
which reads no commands while it answers could stand still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from worker.sources import Ref

_OCTETS = 4 << 20
"""A wire of 400 Mbit/s with a round trip of 50 ms holds 2.5 MB."""
_GROUPS = 16
"""Groups under way. Their commands, 2 kB each at the most, fit into any socket's buffer."""

Asked = TypeVar("Asked")


def asked_ahead(
    groups: Iterable[Sequence[Ref]],
    ask: Callable[[Sequence[Ref]], Asked],
    *,
    alone: Callable[[Sequence[Ref]], bool] = lambda _: False,
) -> Iterator[tuple[Sequence[Ref], Asked, Sequence[Ref]]]:
    """Each group with what `ask` made of it, and the messages of those behind it that were asked for already.

    One that is `alone` is asked for when all before it were read, and nothing is asked for while it is read.
    """
    coming = iter(groups)
    following = next(coming, None)
    under_way: deque[tuple[Sequence[Ref], Asked]] = deque()
    while following or under_way:
        while following and _may_follow(following, under_way, alone):
            under_way.append((following, ask(following)))
            following = next(coming, None)
        group, asked = under_way.popleft()
        yield group, asked, [ref for behind, _ in under_way for ref in behind]


def _may_follow(
    group: Sequence[Ref],
    under_way: deque[tuple[Sequence[Ref], Asked]],
    alone: Callable[[Sequence[Ref]], bool],
) -> bool:
    """Whether a group may be asked for behind these, of which the first is read next."""
    if not under_way:
        return True
    if alone(group) or alone(under_way[-1][0]):
        return False
    octets = sum(ref.size for behind, _ in list(under_way)[1:] for ref in behind)
    return len(under_way) < _GROUPS and (len(under_way) == 1 or octets < _OCTETS)
