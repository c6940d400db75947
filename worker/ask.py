"""Asks the outputs of a batch for their receipts, all side by side, and keeps those in peace that are known to be away.

Whatever an output raises means: all messages of that call, later. What it answers for a message stands. It writes nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from pipelines.message import Message
from pipelines.output import Accepted, Output, Receipt, Refused, Retry
from worker.errors import Misconfigured, RedisUnavailable
from worker.ordering import ordered
from worker.owing import Receipts
from worker.quay import Quay
from worker.spool import Batch, OutputState

_PATIENCE = 3
"""So many calls in a row that bring nothing are enough: an output that is away costs these time-outs, not one a message."""
_LONGEST_REASON = 1000
"""Letters of a reason that are kept: it is in the batch, in logs and in Redis."""


def ask(quay: Quay, batch: Batch, owed: Mapping[str, Sequence[Message]]) -> Receipts:
    """The receipts of every output for the messages of a batch that it is owed."""
    took: dict[str, float] = {}
    answered = _side_by_side(quay, batch, owed, took)
    # What was answered counts, also when Redis is away: else every output would get all of it once more.
    with suppress(RedisUnavailable):
        for output, answers in answered.items():
            _tell(quay, batch, output, answers, took[output])
    return {
        (message.id, output): answer
        for output, answers in answered.items()
        for message, answer in zip(owed[output], answers, strict=True)
    }


def _tell(quay: Quay, batch: Batch, output: str, answers: Sequence[Receipt], seconds: float) -> None:
    """Tell an output's circuit what it answered."""
    reasons = [answer.reason for answer in answers if isinstance(answer, Retry)]
    if len(reasons) < len(answers):
        quay.circuits.succeeded(output)
        return
    failure = batch.id
    if ordered(quay, [output]):
        # Nothing behind it is tried, so there may never be another batch that fails.
        failure += f".{batch.outputs.get(output, OutputState()).attempts}"
    quay.circuits.failed(output, failure, reasons[0], seconds=seconds)


def _side_by_side(
    quay: Quay, batch: Batch, owed: Mapping[str, Sequence[Message]], took: dict[str, float]
) -> dict[str, Sequence[Receipt]]:
    """Every output's receipts, and how many seconds they `took`; outputs are asked side by side, each in a thread."""
    asked = {output: messages for output, messages in owed.items() if messages}

    def answers(output: str) -> Sequence[Receipt]:
        begun = quay.clock()
        # How often an output was asked before decides with which message it begins.
        turn = batch.outputs.get(output, OutputState()).attempts
        found = _answers(quay, output, asked[output], turn)
        took[output] = quay.clock() - begun
        return found

    if len(asked) < 2:
        return {output: answers(output) for output in asked}
    with ThreadPoolExecutor(len(asked), thread_name_prefix="output") as threads:
        return dict(zip(asked, threads.map(answers, asked), strict=True))


def _answers(quay: Quay, name: str, messages: Sequence[Message], turn: int) -> Sequence[Receipt]:
    """One output's receipts, in calls of its batch size, as many at once as it declares."""
    try:
        output = quay.output(name)
    except Misconfigured as error:
        return [Retry(error.sentence)] * len(messages)
    except Exception as error:
        quay.forget_output(name)
        return [Retry(_told(name, error))] * len(messages)
    if quay.settings.outputs[name].terms.ordered:
        # One message at a time, and none behind one that was not taken.
        first, calls = 0, _Calls(name, output, size=1, parallel=1, patience=1)
    else:
        # What brought nothing comes last the next time, so that it does not stand in the way of the others for ever.
        first = turn * output.batch_size % len(messages)
        calls = _Calls(name, output, size=output.batch_size, parallel=output.parallel, patience=_PATIENCE)
    answers = calls.receipts([*messages[first:], *messages[:first]])
    if calls.raised:
        # Not while another call is under way.
        quay.forget_output(name)
    return [*answers[len(messages) - first :], *answers[: len(messages) - first]]


class _Calls:
    """The calls on one output in one delivery, `parallel` at once, until `patience` of them in a row bring nothing."""

    def __init__(self, name: str, output: Output, *, size: int, parallel: int, patience: int) -> None:
        self._name = name
        self._output = output
        self._size = size
        self._parallel = parallel
        self._patience = patience
        self._in_vain = 0
        self.raised = False

    def receipts(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """One receipt for each message."""
        calls = [messages[start : start + self._size] for start in range(0, len(messages), self._size)]
        if self._parallel < 2 or len(calls) < 2:
            answers = [self._call(some) for some in calls]
        else:
            with ThreadPoolExecutor(
                min(self._parallel, len(calls)), thread_name_prefix=self._name
            ) as threads:
                answers = list(threads.map(self._call, calls))
        return [receipt for answer in answers for receipt in answer]

    def _call(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        if self._in_vain >= self._patience:
            reason = f"output {self._name} took nothing a moment ago, so this message was not tried"
            return [Retry(reason)] * len(messages)
        try:
            answers = self._output.deliver(messages)
            if len(answers) != len(messages):
                raise ValueError("it did not answer with one receipt for each message")  # noqa: TRY301
            answers = [_kept(self._name, answer) for answer in answers]
        except Exception as error:
            self.raised = True
            answers = [Retry(_told(self._name, error))] * len(messages)
        in_vain = all(isinstance(answer, Retry) for answer in answers)
        # That two threads count at once is no harm: it is patience, and no promise.
        self._in_vain = self._in_vain + 1 if in_vain else 0
        return answers


def _kept(name: str, answer: object) -> Receipt:
    """An answer as it can be written down. One that is no receipt means: that message, later."""
    if isinstance(answer, Accepted):
        return answer
    if not isinstance(answer, Retry | Refused):
        return Retry(f"output {name} answered for it with something that is no receipt")
    # A server may be quoted, at any length and in letters that no file takes.
    reason = str(answer.reason)[:_LONGEST_REASON].encode(errors="replace").decode()
    return replace(answer, reason=reason)


def _told(name: str, error: Exception) -> str:
    reason = f"output {name} failed with {type(error).__name__}"
    # The words of the system, and no others: an output may have put anything into its error.
    if isinstance(error, socket.gaierror) and error.strerror:
        reason += f" ({error.strerror})"
    elif isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno:
        reason += f" ({os.strerror(error.errno)})"
    return reason
