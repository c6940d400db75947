"""Which folders FOLDERS means: names, patterns and exclusions against what a server lists. Pure functions.

`INBOX,Projects/*,!Projects/Old`: the wildcards are those of IMAP's LIST (RFC 3501 section 6.3.8), `*` for any letters
and `%` for any but the separator. Levels are parted by `/`, whatever the server's own separator is. INBOX is the same in
any case; another name or pattern that fits nothing exactly is compared without regard to case, as Exchange does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

_WILDCARDS = frozenset("*%")


def plain(folders: Sequence[str]) -> list[str]:
    """The names among the words of FOLDERS: no patterns, no exclusions."""
    return [word for word in folders if not word.startswith("!") and _WILDCARDS.isdisjoint(word)]


def patterns(folders: Sequence[str]) -> list[str]:
    """The patterns among the words of FOLDERS; only they need a listing."""
    return [word for word in folders if not word.startswith("!") and not _WILDCARDS.isdisjoint(word)]


def excluded(folders: Sequence[str]) -> list[str]:
    """What the words of FOLDERS exclude, names and patterns, without their `!`."""
    return [word[1:].strip() for word in folders if word.startswith("!")]


def spelled(name: str) -> str:
    """A name with INBOX in capitals, alone or as the highest level: RFC 3501 section 5.1 makes its case meaningless."""
    top, slash, rest = name.partition("/")
    return "INBOX" + slash + rest if top.upper() == "INBOX" else name


def choose(folders: Sequence[str], there: Collection[str]) -> dict[str, frozenset[str]]:
    """The folders that are pulled, each with the patterns that brought it in, in the order of FOLDERS.

    `there` are the names that the server lists. A plain name is in the answer under its own spelling even if it is not
    there, because a person named it. Of what one pattern fits, INBOX comes first and the rest in alphabetical order.
    """
    without = {name for word in excluded(folders) for name in fitting(word, [*there, *plain(folders)])}
    chosen: dict[str, frozenset[str]] = {}
    named: set[str] = set()
    for name in plain(folders):
        # Under two spellings one folder would be pulled twice, with two sets of ids.
        alike = set(fitting(name, there))
        named |= alike
        if name not in without and not (alike and alike <= without):
            chosen[name] = frozenset()
    for pattern in patterns(folders):
        for name in sorted(fitting(pattern, there), key=lambda name: (name != "INBOX", name)):
            if name not in without and name not in named:
                chosen[name] = chosen.get(name, frozenset()) | {pattern}
    return chosen


def fitting(pattern: str, names: Collection[str]) -> Iterator[str]:
    """The names that a name or pattern fits; those that differ in case only when it fits none exactly."""
    pattern = spelled(pattern)
    exact = [
        name for name in names if _fits(pattern, name) or (name == "INBOX" and _fits(pattern.upper(), name))
    ]
    yield from exact or (name for name in names if _fits(pattern.casefold(), name.casefold()))


def _fits(pattern: str, name: str) -> bool:
    """Whether a pattern fits a whole name. All ways are followed at once: a long name cannot make it slow."""
    ways = _with_nothing(pattern, {0})
    for letter in name:
        further: set[int] = set()
        for at in ways:
            sign = pattern[at : at + 1]
            if sign == "*" or (sign == "%" and letter != "/"):
                further.add(at)
            elif sign == letter:
                further.add(at + 1)
        ways = _with_nothing(pattern, further)
        if not ways:
            return False
    return len(pattern) in ways


def _with_nothing(pattern: str, ways: set[int]) -> set[int]:
    """The same ways, and those on which a wildcard stands for nothing (more)."""
    ahead = list(ways)
    while ahead:
        at = ahead.pop()
        if pattern[at : at + 1] in _WILDCARDS and at + 1 not in ways:
            ways.add(at + 1)
            ahead.append(at + 1)
    return ways
