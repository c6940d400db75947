"""Exchange's letter in the place of a message that it could not convert, as people have posted it (freescout#3203)."""

from __future__ import annotations

PLACEHOLDER = b"""From: "Microsoft Exchange Server" <microsoft@unknown>\r
To: <support@contoso.com>\r
Subject: Retrieval using the IMAP4 protocol failed for the following\r
 message: 752\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset="us-ascii"\r
Content-Transfer-Encoding: quoted-printable\r
\r
The server couldn't retrieve the following message:\r
\r
Subject: "Canceled: Weekly meeting"\r
From: "Crane Driver" ("/O=3DEXCHANGELABS/CN=3DRECIPIENTS/CN=3Dcrane")\r
Sent date: 11/23/2026 9:00:00 AM\r
\r
The message hasn't been deleted. You might be able to view it using either Outl=\r
ook or Outlook Web App. You can also contact the sender to find out what the me=\r
ssage says.\r
"""
