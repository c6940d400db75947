"""Bare loops over the standard library, as programs: `python -m bench.loops imaplib HOST PORT CA_FILE USER`.

They keep nothing of what they read. The password comes on standard input.
"""

from __future__ import annotations

import imaplib
import poplib
import ssl
import sys


def with_imaplib(host: str, port: int, context: ssl.SSLContext, user: str, password: str) -> None:
    """FETCH 64 messages at a time."""
    client = imaplib.IMAP4_SSL(host, port, ssl_context=context)
    client.login(user, password)
    client.select("INBOX", readonly=True)
    uids = client.uid("SEARCH", "ALL")[1][0].split()
    for start in range(0, len(uids), 64):
        group = b",".join(uids[start : start + 64]).decode()
        _, data = client.uid("FETCH", group, "(UID FLAGS INTERNALDATE BODY.PEEK[])")
        assert len(data) >= len(uids[start : start + 64])
    client.logout()


def with_poplib(host: str, port: int, context: ssl.SSLContext, user: str, password: str) -> None:
    """RETR message by message."""
    client = poplib.POP3_SSL(host, port, context=context)
    client.user(user)
    client.pass_(password)
    for line in client.uidl()[1]:
        client.retr(int(line.split()[0]))
    client.quit()


if __name__ == "__main__":
    library, host, port, ca_file, user = sys.argv[1:]
    loop = with_imaplib if library == "imaplib" else with_poplib
    loop(host, int(port), ssl.create_default_context(cafile=ca_file), user, sys.stdin.read())
