"""`mailquay parse FILE...`: one JSON object a line, a drawing, or the attachments, without any configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import orjson

from worker.reading.crew import cores, run
from worker.reading.find import find, weigh
from worker.reading.outline import Outline, coloured, plain
from worker.reading.shown import shown
from worker.reading.work import Outcome, Task


def _print_schema(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from pipelines.schema import schema

        click.echo(orjson.dumps(schema(), option=orjson.OPT_INDENT_2))
        ctx.exit()


def _stages(_: click.Context, __: click.Parameter, said: tuple[str, ...]) -> tuple[str, ...]:
    """Make the stages once here, so that a wrong one is said before anything is read."""
    if not said:
        return said
    from worker.reading.stages import WrongStage, pipeline

    try:
        pipeline(said)
    except WrongStage as wrong:
        raise click.BadParameter(str(wrong)) from wrong
    return said


@click.command("parse")
@click.argument("names", metavar="FILE...", nargs=-1, required=True)
@click.option("--tree", is_flag=True, help="Draw the parts of each message instead.")
@click.option(
    "--extract",
    "target",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write attachments into DIR instead, under safe names, and print those.",
)
@click.option(
    "--stage",
    "stages",
    metavar="TYPE[:OPTION=VALUE]",
    multiple=True,
    callback=_stages,
    help="Run a stage of this type first; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="With --extract, print one JSON object a file.")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of the output, and stop.",
)
def command(
    *, names: tuple[str, ...], tree: bool, target: Path | None, stages: tuple[str, ...], as_json: bool
) -> None:
    """Parse messages in files, folders, Maildirs, mboxes and batches of the spool; `-` is standard input.

    What cannot be read is named, and the rest goes on; the exit code is 1 then.
    """
    if tree and (as_json or target is not None):
        raise click.UsageError("--tree goes with neither --json nor --extract.")
    places = find(names, stdin=sys.stdin.buffer)
    with _progress(names) as advance:
        if target is None:
            outcomes = run(Task(stages, "tree" if tree else "json"), places, processes=cores())
            is_well = _show(outcomes, advance)
        else:
            from pipelines.attachments import Folder
            from worker.reading.extract import extract

            try:
                folder = Folder(target)
            except OSError as error:
                raise click.BadParameter(f"{target}: {error.strerror}", param_hint="--extract") from error
            with folder:
                is_well = _show(extract(places, folder, stages=stages, as_json=as_json), advance)
    sys.exit(0 if is_well else 1)


def _show(outcomes: Iterable[Outcome], advance: Callable[[int], None]) -> bool:
    """Print what became of each message; say whether all is well."""
    is_well, dropped = True, 0
    for outcome in outcomes:
        for line in outcome.lines:
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        if outcome.outline is not None:
            _draw(outcome.label, outcome.outline)
        if outcome.trouble is not None:
            is_well = False
            click.echo(f"{shown(outcome.label, most=2000)}: {outcome.trouble}", err=True)
        dropped += outcome.is_dropped
        advance(outcome.size)
    if dropped:
        click.echo(f"Stages dropped {dropped} {'message' if dropped == 1 else 'messages'}.", err=True)
    return is_well


def _draw(label: str, drawn: Outline) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(shown(label, most=2000), markup=False, style="dim", soft_wrap=True)
        console.print(coloured(drawn))
        return
    is_ascii = "utf" not in (sys.stdout.encoding or "").lower()
    for line in (shown(label, most=2000), *plain(drawn, is_ascii=is_ascii)):
        click.echo(line.encode("ascii", "backslashreplace") if is_ascii else line)


@contextmanager
def _progress(names: tuple[str, ...]) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal while the output goes somewhere else; what is called with the bytes that are done."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[messages]} messages"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=weigh(names), messages=0)
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=size, messages=done)

        yield advance
