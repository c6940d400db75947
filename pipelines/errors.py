"""The errors that concern one message.

Parsing raises none of them: whatever it meets becomes a defect of the message. A stage that fails stops its
message, and only that one, for a visible retry.
"""

from __future__ import annotations


class MessageError(Exception):
    """Something went wrong with one message; others go on."""


class StageFailed(MessageError):
    """A stage raised on a message, which is therefore retried; the cause stands in `__cause__`.

    The text names stage, message and kind of error, and leaves out the error's own words, which may quote the
    message.
    """

    def __init__(self, *, stage: str, message_id: str, mailbox: str, cause: BaseException) -> None:
        super().__init__(
            f"stage {stage!r} failed on message {message_id} of mailbox {mailbox!r} with "
            f"{type(cause).__name__}; the message is kept and tried again. Fix the stage or take it out of the "
            f"mailbox's STAGES."
        )
        self.stage = stage
        self.message_id = message_id
        self.mailbox = mailbox
