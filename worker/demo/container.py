"""The demo beside the real services of the compose file: `python -m worker.demo.container`.

It runs the servers, signs the accounts in, seeds letters and lets more arrive slowly. /demo/.env, which tells the other
services of the mailboxes, appears when all that is done and is removed at the end: the container is healthy while it
exists. REDIS_URL, DATA_DIR and TOKEN_KEYS_FILE come from the environment and are those of the other services.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from worker import log, settings
from worker.demo.addresses import Addresses
from worker.demo.approval import sign_in_everybody
from worker.demo.carrier import Carrier
from worker.demo.servers_process import ServersProcess
from worker.demo.variables import environment, variables, write_env
from worker.errors import ConfigurationError, MailquayError, Misconfigured
from worker.quay import quay

_SHARED = ("REDIS_URL", "REDIS_URL_FILE", "DATA_DIR", "TOKEN_KEYS_FILE")
"""What the demo and the services beside it have to agree on."""


def serve(arguments: argparse.Namespace, stop: threading.Event) -> None:
    """Run the demo's part until `stop` is set.

    Raises:
        MailquayError: Redis or the servers do not answer, or end; or real mailboxes are configured beside it.
    """
    folder: Path = arguments.dir.absolute()
    env_file = folder / ".env"
    # One that a killed run left would call a demo healthy that is not there yet.
    env_file.unlink(missing_ok=True)
    _alone()
    servers = ServersProcess(
        folder,
        log_file=None,
        environ=environment({}),
        arguments=[
            *("--host", arguments.host, "--name", arguments.name),
            # The services, which read the file at their start, have to find a demo that was started anew.
            *([] if arguments.free_ports else ["--fixed-ports"]),
        ],
    )
    with servers, Carrier(time.time) as carrier:
        addresses = servers.addresses(give_up=stop.is_set)
        if addresses is None:
            return
        out: Path = arguments.out.absolute()
        said = variables(addresses, lines=out / "mail.jsonl", maildir=out / "Maildir")
        _sign_in(said, addresses)
        carrier.bring(addresses.lab, carrier.write(arguments.letters))
        write_env(env_file, said)
        _say(f"{carrier.brought} letters lie in the demo's mailboxes; they will be in {out}")
        try:
            while not stop.wait(1 / arguments.rate if arguments.rate else 1):
                servers.check()
                if arguments.rate:
                    carrier.bring(addresses.lab, carrier.write(1))
        finally:
            env_file.unlink(missing_ok=True)


def _alone() -> None:
    """Make sure that nothing real is configured: the demo's identity provider and defaults would be its as well."""
    if real := settings.load(os.environ, cwd=Path.cwd()).mailboxes:
        raise Misconfigured(
            f"the demo does not run beside real mailboxes ({', '.join(sorted(real))}), because it would change where they "
            "sign in. Start without --profile demo, or take them out of .env for as long as it runs"
        )


def _sign_in(said: dict[str, str], addresses: Addresses) -> None:
    """Put the accounts' tokens where the services look for them."""
    shared = {key: os.environ[key] for key in _SHARED if key in os.environ}
    here = quay(environment({**shared, **said}))
    try:
        sign_in_everybody(here, addresses, say=_say)
    finally:
        here.close()


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exits 1 with a sentence when something does not work."""
    parser = argparse.ArgumentParser(prog="python -m worker.demo.container", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("/demo"), help="shared folder: .env, certificates, secrets"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("/data/demo"), help="where the services write the mail"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--name", default="demo", help="host name by which the services reach it")
    parser.add_argument("--free-ports", action="store_true", help="listen wherever there is room")
    parser.add_argument("--letters", type=int, default=40, help="letters at the start")
    parser.add_argument("--rate", type=float, default=0.2, help="letters that arrive a second")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.configure(level="warning", form="auto")
    try:
        serve(parser.parse_args(given), stop)
    except ConfigurationError as error:
        sys.exit("\n".join(map(str, error.problems)))
    except MailquayError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
