"""`mailquay login ACCOUNT`: sign an account in, by device code (RFC 8628) or in a browser (authorization code, PKCE)."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import click

from worker.cli.session import session
from worker.errors import Misconfigured, NeedsSignIn
from worker.loopback import Loopback
from worker.quay import Quay
from worker.sign_in import begin_code, by_device_code, finish_code, usual_way

_PATIENCE_SECONDS = 15 * 60.0

Way = Literal["device", "browser", "paste"]


@click.command("login")
@click.argument("account")
@click.option("--device", "way", flag_value="device", help="Show a code to type in on any machine.")
@click.option("--browser", "way", flag_value="browser", help="Open the browser of this machine.")
@click.option("--paste", "way", flag_value="paste", help="Print an address, and take back where it led.")
@click.option("--port", default=0, show_default="a free one", help="Port on loopback for --browser.")
def command(*, account: str, way: Way | None, port: int) -> None:
    """Sign in as ACCOUNT; its mailboxes go on at once.

    Without an option a public client shows a code, and a confidential one opens the browser, or prints an address where
    there is none.
    """
    with session() as quay:
        match way or _way(quay, account):
            case "device":
                by_device_code(quay, account, show=_show_code)
            case "browser":
                _in_browser(quay, account, port)
            case "paste":
                _by_pasting(quay, account)
        click.echo(f"{account} is signed in.")


def _way(quay: Quay, account: str) -> Way:
    if usual_way(quay, account) == "device":
        return "device"
    try:
        webbrowser.get()
    except webbrowser.Error:
        return "paste"
    return "browser"


def _show_code(address: str, code: str) -> None:
    click.echo(f"Open {address} in a browser, enter the code {code}, and sign in there.")


def _in_browser(quay: Quay, account: str, port: int) -> None:
    try:
        listener = Loopback(port=port)
    except (OSError, OverflowError) as error:
        raise Misconfigured(
            f"port {port} cannot be listened on ({error}); name another with --port, or none"
        ) from error
    with listener as loopback:
        begun = begin_code(quay, account, redirect_uri=loopback.redirect_uri, form_post=True)
        click.echo(f"Sign in as {account} in the browser. If none opens, go to\n\n{begun.address}\n")
        loopback.expect(str(begun.flow["state"]))
        webbrowser.open(begun.address)
        answer = loopback.answer(seconds=_PATIENCE_SECONDS)
    if answer is None:
        raise NeedsSignIn(
            f"nobody signed in as {account} within {_PATIENCE_SECONDS / 60:.0f} minutes. Run `mailquay login {account}` "
            "again, with --paste where the browser is on another machine"
        )
    finish_code(quay, begun, answer)


def _by_pasting(quay: Quay, account: str) -> None:
    begun = begin_code(quay, account)
    click.echo(
        f"Open this address in a browser, on any machine, and sign in as {account}:\n\n{begun.address}\n\n"
        "The browser then shows a page that cannot be reached. Copy the address of that page and paste it here."
    )
    with suppress(ImportError):
        # With it a terminal takes lines longer than it otherwise would; the address is a long one.
        import readline  # noqa: F401
    pasted = click.prompt("Address", prompt_suffix=": ").strip()
    finish_code(quay, begun, dict(parse_qsl(urlsplit(pasted).query or pasted)))
