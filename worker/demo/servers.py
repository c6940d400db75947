"""Everything the demo talks to, in one process: identity provider, IMAP, POP3, and a webhook receiver.

Run as `python -m worker.demo.servers --dir DIR --port-file FILE`. The port file appears, whole, when everything
answers; it says where. SIGTERM and SIGINT end the process. Mail comes in through `POST /_lab/deliver?mailbox=ADDRESS`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import signal
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.demo import harbour
from worker.demo.addresses import Addresses
from worker.demo.certificates import LOOPBACK, write_certificates
from worker.demo.identity.lab import entra_app, lab_routes
from worker.demo.imap import serving_imap
from worker.demo.mail_store import MailStore
from worker.demo.pop3 import serving_pop3
from worker.demo.private_file import create_private
from worker.demo.receiver import receiver_app
from worker.demo.web import listen, port_of, serving


@dataclass(frozen=True, slots=True)
class Ports:
    """Which ports to listen on; 0 takes any free one."""

    identity: int = 0
    lab: int = 0
    imap: int = 0
    pop3: int = 0
    receiver: int = 0


FIXED_PORTS = Ports(identity=8443, lab=8080, imap=9993, pop3=9995, receiver=8081)


@contextlib.asynccontextmanager
async def demo_servers(
    folder: Path, *, host: str = "127.0.0.1", name: str = "localhost", ports: Ports = Ports()
) -> AsyncIterator[Addresses]:
    """Run every server for the length of the block.

    Args:
        folder: Gets certificates, secrets and the receiver's log; made when it does not exist.
        host: The address to listen on.
        name: The host name by which clients reach it; the certificate is good for it.
        ports: Where to listen.
    """
    certificates = write_certificates(folder / "tls", names=sorted({*LOOPBACK, name}))
    robot_secret_file, receiver_secret_file = folder / "robot-secret", folder / "receiver-secret"
    robot_secret = _secret(robot_secret_file, secrets.token_urlsafe(24))
    receiver_secret = _secret(receiver_secret_file, "whsec_" + b64encode(secrets.token_bytes(24)).decode())
    receiver_log = folder / "receiver.jsonl"

    provider = harbour.harbour(clock=time.time, robot_secret=robot_secret)
    store = MailStore(harbour.MAILBOXES)
    lab = Starlette(routes=[*lab_routes(provider), *delivery_routes(store)])
    receiver = receiver_app(receiver_secret, receiver_log, clock=time.time)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.chain_file, certificates.key_file)

    async with contextlib.AsyncExitStack() as stack:
        sockets = {key: stack.enter_context(listen(host, port)) for key, port in asdict(ports).items()}
        await stack.enter_async_context(serving(entra_app(provider), sockets["identity"], certificates))
        await stack.enter_async_context(serving(lab, sockets["lab"]))
        await stack.enter_async_context(serving(receiver, sockets["receiver"]))
        await stack.enter_async_context(serving_imap(provider, store, sockets["imap"], tls))
        await stack.enter_async_context(serving_pop3(provider, store, sockets["pop3"], tls))
        yield Addresses(
            host=name,
            authority=f"https://{name}:{port_of(sockets['identity'])}/{provider.tenant}",
            client_id=harbour.CLIENT_ID,
            robot_id=harbour.ROBOT_ID,
            robot_secret_file=str(robot_secret_file),
            lab=f"http://{name}:{port_of(sockets['lab'])}/_lab",
            imap_port=port_of(sockets["imap"]),
            pop3_port=port_of(sockets["pop3"]),
            receiver=f"http://{name}:{port_of(sockets['receiver'])}/hook",
            receiver_secret_file=str(receiver_secret_file),
            receiver_log=str(receiver_log),
            ca_file=str(certificates.ca_file),
        )


def delivery_routes(store: MailStore) -> list[Route]:
    """The lab's addresses for mail: `POST /_lab/deliver?mailbox=` with a raw message, and `GET /_lab/mailboxes`."""

    async def deliver(request: Request) -> Response:
        mailbox = request.query_params.get("mailbox", "")
        raw = await request.body()
        try:
            await store.deliver(mailbox, raw, received_at=datetime.now(UTC))
        except KeyError:
            return JSONResponse({"error": f"There is no mailbox {mailbox!r} here."}, status_code=404)
        return JSONResponse(await store.count(), status_code=201)

    async def mailboxes(_: Request) -> Response:
        return JSONResponse(await store.count())

    return [
        Route("/_lab/deliver", deliver, methods=["POST"]),
        Route("/_lab/mailboxes", mailboxes, methods=["GET"]),
    ]


def _secret(path: Path, fresh: str) -> str:
    """The secret in `path`; `fresh` is written there, for the owner only, when there is none yet."""
    with contextlib.suppress(FileExistsError):
        create_private(path, fresh.encode())
    return path.read_text()


async def _run(arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # A file that an earlier, killed run left would say that everything is ready.
    arguments.port_file.unlink(missing_ok=True)
    ports = FIXED_PORTS if arguments.fixed_ports else Ports()
    async with demo_servers(
        arguments.dir, host=arguments.host, name=arguments.name, ports=ports
    ) as addresses:
        draft = arguments.port_file.with_name(arguments.port_file.name + ".tmp")
        draft.write_text(json.dumps(asdict(addresses), indent=2) + "\n")
        draft.rename(arguments.port_file)
        await stopping.wait()
    arguments.port_file.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the servers until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m worker.demo.servers", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, required=True, help="folder for certificates, secrets and the receiver's log"
    )
    parser.add_argument(
        "--port-file", type=Path, required=True, help="gets all addresses, as JSON, when ready"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--name", default="localhost", help="host name by which clients reach the servers")
    parser.add_argument("--fixed-ports", action="store_true", help=f"listen on {FIXED_PORTS}")
    asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
