"""Asking ahead: as much as a long wire holds, whatever the size of the messages, and nothing beside one that is alone."""

from __future__ import annotations

from collections.abc import Sequence

from worker.sources import Ref
from worker.sources.ahead import asked_ahead

KIB, MIB = 1 << 10, 1 << 20


def groups(*sizes: int) -> list[list[Ref]]:
    return [[Ref(uid=number, size=size)] for number, size in enumerate(sizes, 1)]


def asked_before(wanted: Sequence[Sequence[Ref]], *alone: int) -> list[int]:
    """How many groups had been asked for when each of them was read."""
    asked: list[Sequence[Ref]] = []
    counts: list[int] = []
    for group, _, behind in asked_ahead(wanted, asked.append, alone=lambda group: group[0].uid in alone):
        counts.append(len(asked))
        assert group == wanted[len(counts) - 1]
        assert behind == [ref for later in asked[len(counts) :] for ref in later]
    assert asked == list(wanted)
    return counts


def test_small_groups_are_asked_for_until_the_wire_is_full() -> None:
    """Four mebibytes beside the one that is read: one group alone would leave a far server idle."""
    assert asked_before(groups(*[MIB] * 8)) == [5, 6, 7, 8, 8, 8, 8, 8]


def test_a_large_group_is_asked_for_ahead_all_the_same() -> None:
    """While one is read, one more is on its way, however large it is."""
    assert asked_before(groups(*[16 * MIB] * 3)) == [2, 3, 3]


def test_tiny_groups_do_not_fill_the_wire_with_commands() -> None:
    """A server that reads nothing while it answers could stand still for ever."""
    assert asked_before(groups(*[KIB] * 40))[0] == 16


def test_beside_one_that_is_alone_nothing_is_asked_for() -> None:
    """It is asked for when all before it were read, and what follows it when it was read itself."""
    assert asked_before(groups(*[KIB] * 5), 3) == [2, 2, 3, 5, 5]
    assert asked_before(groups(KIB), 1) == [1]
    assert asked_before([]) == []
