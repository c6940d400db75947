"""Message ids: the same message on the same server has the same id, however often it is pulled.

The id is made of where a message lies, not of what it says: two equal letters are two messages, and one letter pulled
twice is one. Every output passes it on as the downstream system's own dedupe key.
"""

from __future__ import annotations

import hashlib


def imap_id(mailbox: str, folder: str, uidvalidity: int, uid: int) -> str:
    """32 hex digits for an IMAP message: unique and stable as RFC 3501 section 2.3.1.1 makes its uid."""
    return _id(mailbox, folder, str(uidvalidity), str(uid))


def pop3_id(mailbox: str, uidl: str) -> str:
    """32 hex digits for a POP3 message, from its unique-id listing (RFC 1939 section 7)."""
    return _id(mailbox, uidl)


def batch_id(message_ids: list[str]) -> str:
    """32 hex digits for a batch: the same messages make the same batch."""
    return _id("batch", *message_ids)


def _id(*parts: str) -> str:
    # NUL occurs in none of the parts (RFC 3501 CHAR excludes it), so the joint is unambiguous.
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
