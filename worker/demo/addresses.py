"""Where the demo's servers answer, and the files that clients need. Secrets are named by their files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the servers say of themselves when all of them answer; the port file holds it as JSON."""

    host: str
    authority: str
    client_id: str
    robot_id: str
    robot_secret_file: str
    lab: str
    imap_port: int
    pop3_port: int
    receiver: str
    receiver_secret_file: str
    receiver_log: str
    ca_file: str
