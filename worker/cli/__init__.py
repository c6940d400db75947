"""The command line: `mailquay VERB`. One file a verb, imported when it is asked for.

Exit codes: 0 all is well; 1 something failed or waits, and the output says what; 2 the command or the configuration is
wrong. What a program reads goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import gc
import importlib
from typing import Any

import click

VERBS = {
    "demo": "See it work: local servers, four mailboxes, three outputs.",
    "up": "Run every role on this machine under one supervisor.",
    "watch": "Wait for new mail in mailboxes with PUSH=yes (one role of `up`).",
    "once": "Pull every mailbox and deliver until nothing is due.",
    "check": "Print every configuration problem at once; --connect also signs in.",
    "login": "Sign an account in, by device code or in a browser.",
    "tokens": "List or forget stored sign-ins, and change the keys that seal them.",
    "status": "Show how each mailbox and each account stands.",
    "pull": "Pull one mailbox into the spool and stop; --since goes back over a folder.",
    "rewind": "Move a checkpoint back on purpose.",
    "drain": "Deliver what is in the spool, and wait until it is empty.",
    "replay": "Send delivered messages again, from what KEEP keeps.",
    "parse": "Print messages from files as JSON, one object a line.",
    "failed": "List, look into, retry or drop what waits for a person.",
    "repair": "List, retry or drop messages that a server does not give.",
    "spool": "Move the spool to another place.",
    "health": "Say whether a role does its work (for container health checks).",
}


class _Verbs(click.Group):
    """Imports a verb's file when it is used, so that `mailquay parse` starts without Celery."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        # What is imported stays to the end: to look for garbage in it, now or later, is a tenth of a short verb's time.
        gc.disable()
        command: click.Command = importlib.import_module(f"worker.cli.{cmd_name}").command
        gc.freeze()
        gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what Mailquay foresaw ends in a line and an exit code, not in a traceback."""
        from worker.errors import ConfigurationError, MailquayError

        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            for problem in error.problems:
                click.echo(str(problem), err=True)
            ctx.exit(2)
        except MailquayError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mailquay")
def main() -> None:
    """Mailquay unloads mail: IMAP and POP3 mailboxes, OAuth 2.0, to whatever you build on it."""
