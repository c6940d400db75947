"""The demo's mailboxes, in memory, shared by the IMAP and the POP3 server.

A message is kept exactly as it was delivered. All methods belong to one event loop; a mailbox exists from the start or
not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from pymap.backend.dict.mailbox import MailboxData, MailboxSet
from pymap.parsing.message import AppendMessage
from pymap.parsing.specials import FetchRequirement


@dataclass(frozen=True, slots=True)
class Stored:
    """One message in an INBOX."""

    uid: int
    raw: bytes = field(repr=False)


class MailStore:
    """The mailboxes of `addresses`; a KeyError means that there is no such mailbox."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._mailboxes = {address.lower(): MailboxSet() for address in addresses}

    def folders(self, address: str) -> MailboxSet:
        """The folders of a mailbox, as pymap sees them."""
        return self._mailboxes[address.lower()]

    async def deliver(self, address: str, raw: bytes, *, received_at: datetime) -> None:
        """Put a message into the INBOX of `address`. IMAP sessions in IDLE hear of it."""
        inbox = await self.inbox(address)
        await inbox.append(AppendMessage(raw, received_at), recent=True)

    async def inbox(self, address: str) -> MailboxData:
        """The INBOX of `address`."""
        return await self.folders(address).get_mailbox("INBOX")

    async def messages(self, address: str) -> list[Stored]:
        """What the INBOX holds now, oldest first."""
        inbox = await self.inbox(address)
        found = []
        async for message in inbox.messages():
            loaded = await message.load_content(FetchRequirement.CONTENT)
            found.append(Stored(message.uid, bytes(loaded.get_body())))
        return found

    async def delete(self, address: str, uids: Iterable[int]) -> None:
        """Remove messages from the INBOX for good."""
        inbox = await self.inbox(address)
        await inbox.delete(list(uids))

    async def count(self) -> dict[str, int]:
        """How many messages each INBOX holds."""
        return {address: (await (await self.inbox(address)).snapshot()).exists for address in self._mailboxes}
