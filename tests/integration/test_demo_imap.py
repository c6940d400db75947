"""The demo's IMAP server holds on to its sessions."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from pathlib import Path

from tests.bed.clients import trusting
from worker.demo.certificates import write_certificates
from worker.demo.harbour import MAILBOXES, harbour
from worker.demo.imap import serving_imap
from worker.demo.mail_store import MailStore
from worker.demo.web import listen, port_of


def test_a_session_outlives_the_garbage_collector(tmp_path: Path) -> None:
    """The loop holds tasks weakly: from Python 3.12 on, a session that nobody else held was closed in mid-answer."""
    certificates = write_certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.chain_file, certificates.key_file)
    provider = harbour(clock=time.time, robot_secret="unused")

    async def talk() -> bytes:
        with listen("127.0.0.1", 0) as listener:
            async with serving_imap(provider, MailStore(MAILBOXES), listener, tls):
                reader, writer = await asyncio.open_connection(
                    "localhost", port_of(listener), ssl=trusting(certificates.ca_file)
                )
                greeting = await reader.readline()
                gc.collect()
                writer.write(b"a NOOP\r\n")
                answer = await reader.readline()
                writer.close()
                return greeting + answer

    assert asyncio.run(asyncio.wait_for(talk(), 10)).endswith(b"a OK NOOP completed.\r\n")
