"""Settling over IMAP: messages marked, moved or deleted by uid, and nothing but these messages.

A bare EXPUNGE is never sent, because it would remove what other people have marked (RFC 4315 section 2.1). Without MOVE
(RFC 6851) a message is copied, marked and expunged; should the connection end after the copy and before the expunge, it is
moved again later and lies in the target twice. It never lies nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pipelines.imap_text import mutf7
from worker.errors import Misconfigured
from worker.sources.imap_fetch import Done
from worker.sources.imap_text import quoted, uid_sets
from worker.sources.refusal import SETTLING, meaning, shown

_ABSENT = ("[trycreate]", "[nonexistent]", "doesn't exist", "does not exist")
"""Signs that the folder to move to is not there; servers SHOULD say TRYCREATE (RFC 3501 section 6.4.7)."""

_FORBIDDEN = ("[cannot]", "[noperm]")
"""Signs that it is there and not for this account, or can never be (RFC 5530)."""


class Settlement:
    """One settling of the open folder. `run` sends a command; `spelled` looks a folder up in the server's listing."""

    def __init__(
        self,
        run: Callable[[str], Done],
        spelled: Callable[[str], str | None],
        capabilities: Collection[str],
        *,
        host: str,
    ) -> None:
        self._run = run
        self._spelled = spelled
        self._capabilities = capabilities
        self._host = host

    def apply(self, uids: Iterable[int], action: str) -> None:
        """Apply `seen`, `delete` or `move:FOLDER`; a uid that is gone already is none of the server's concern.

        Raises:
            Misconfigured: the server cannot do it safely, or has no such folder and makes none.
            Refused: it says no in other words; the session goes on.
        """
        verb, _, target = action.partition(":")
        moving = verb == "move" and "MOVE" in self._capabilities
        if verb != "seen" and not moving and "UIDPLUS" not in self._capabilities:
            raise Misconfigured(
                f"{self._host} has no UIDPLUS, so AFTER={verb} cannot be done safely. Use AFTER=seen."
            )
        wire_name = mutf7(target)
        # A set is done with before the next one is begun: so little is done twice after a death.
        for uid_set in uid_sets(uids):
            if verb == "seen":
                self._do(f"UID STORE {uid_set} +FLAGS.SILENT (\\Seen)")
                continue
            if verb == "move":
                wire_name = self._put(f"UID {'MOVE' if moving else 'COPY'} {uid_set}", target, wire_name)
            if not moving:
                self._do(f"UID STORE {uid_set} +FLAGS.SILENT (\\Deleted)")
                self._do(f"UID EXPUNGE {uid_set}")

    def _put(self, command: str, target: str, wire_name: str) -> str:
        """Move or copy to a folder, which is made when it is not there; returns how its name has to be sent."""
        done = self._run(f"{command} {quoted(wire_name)}")
        if done.status != "OK" and any(sign in done.text.lower() for sign in _ABSENT):
            # It may be there in another case, or with another separator.
            wire_name = self._spelled(target) or self._made(target, wire_name)
            done = self._run(f"{command} {quoted(wire_name)}")
        if done.status != "OK" and any(sign in done.text.lower() for sign in _FORBIDDEN):
            raise Misconfigured(
                f"{self._host} moves no messages to {target}: {shown(done.text)}. Name another folder in AFTER"
            )
        self._expect(done)
        return wire_name

    def _made(self, target: str, wire_name: str) -> str:
        done = self._run(f"CREATE {quoted(wire_name)}")
        if done.status != "OK" and "[ALREADYEXISTS]" not in done.text.upper():
            raise Misconfigured(
                f"{self._host} has no folder {target} to move messages to, and does not make one: {shown(done.text)}. "
                "Make it there, or name another one in AFTER"
            )
        # Many mail programs show only what is subscribed to.
        self._run(f"SUBSCRIBE {quoted(wire_name)}")
        return wire_name

    def _do(self, command: str) -> None:
        self._expect(self._run(command))

    def _expect(self, done: Done) -> None:
        if done.status != "OK":
            raise meaning(done.text, host=self._host, during=SETTLING)
