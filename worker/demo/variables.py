"""What the demo's installation is told: four mailboxes, three outputs, and who signs in, as environment variables.

Nothing of the environment that the demo was started in reaches it: a demo never pulls, signs in to or delivers to
anything real.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker import env
from worker.demo import harbour
from worker.demo.addresses import Addresses
from worker.settings import General


@dataclass(frozen=True, slots=True)
class Berth:
    """One mailbox of the demo: its name, where its mail is, by which protocol, and whose sign-in opens it."""

    name: str
    address: str
    protocol: str
    account: str


BERTHS = (
    Berth("alice", harbour.ALICE, "imap", harbour.ALICE),
    Berth("bob", harbour.BOB, "pop3", harbour.BOB),
    Berth("support", harbour.SUPPORT, "imap", harbour.ALICE),
    Berth("orders", harbour.ORDERS, "imap", harbour.BOB),
)
ACCOUNTS = (harbour.ALICE, harbour.BOB)


def variables(addresses: Addresses, *, lines: Path, maildir: Path) -> dict[str, str]:
    """The variables of the mailboxes and outputs; `lines` and `maildir` are where mail is written to."""
    said = {
        "ENTRA__AUTHORITY": addresses.authority,
        "ENTRA__CLIENT_ID": addresses.client_id,
        "ENTRA__CA_FILE": addresses.ca_file,
        "OUTPUT__LINES__TYPE": "jsonl",
        "OUTPUT__LINES__PATH": str(lines),
        "OUTPUT__POST__TYPE": "maildir",
        "OUTPUT__POST__PATH": str(maildir),
        "OUTPUT__HOOK__TYPE": "webhook",
        "OUTPUT__HOOK__URL": addresses.receiver,
        "OUTPUT__HOOK__SECRET_FILE": addresses.receiver_secret_file,
        "MAILBOX_DEFAULTS__AUTH": "delegated",
        "MAILBOX_DEFAULTS__HOST": addresses.host,
        "MAILBOX_DEFAULTS__CA_FILE": addresses.ca_file,
        "MAILBOX_DEFAULTS__EVERY": "2s",
        "MAILBOX_DEFAULTS__SINCE": "all",
        "MAILBOX_DEFAULTS__OUTPUTS": "lines,post,hook",
    }
    for berth in BERTHS:
        port = addresses.pop3_port if berth.protocol == "pop3" else addresses.imap_port
        prefix = f"MAILBOX__{berth.name.upper()}__"
        said |= {
            f"{prefix}PROTOCOL": berth.protocol,
            f"{prefix}ADDRESS": berth.address,
            f"{prefix}ACCOUNT": berth.account,
            f"{prefix}PORT": str(port),
        }
    return said


def write_env(path: Path, said: Mapping[str, str]) -> None:
    """Write variables as an env file that appears whole. It names files that hold secrets, and holds none."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text("".join(f"{key}={_quoted(value)}\n" for key, value in said.items()), encoding="utf-8")
    draft.rename(path)


def environment(said: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, but in it Mailquay is told `said` and nothing else."""
    # The variables themselves and not the file, because ENV_FILE cannot name a file with a comma in its path.
    return {**_foreign(os.environ), **said, "ENV_FILE": os.devnull}


def _foreign(environ: Mapping[str, str]) -> dict[str, str]:
    names = {name.upper() for name in General.model_fields}
    return {
        key: value
        for key, value in environ.items()
        if not key.startswith(env.PREFIXES) and not {key, key.removesuffix("_FILE")} & names
    }


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
