"""Puts each message into an object store: its bytes, its JSON and, when wanted, its attachments.

The JSON is put last, so whoever sees it finds the rest. Keys are made of the message id and objects are only added where
none is, so a message that comes again changes nothing; a store that cannot compare (an attachment or message over 8 MiB
goes in parts) is asked first. A receipt says accepted when the store has confirmed every object. Attachments are decoded
piece by piece. Nothing in the store is ever removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from pipelines.attachments import attachments
from pipelines.file_name import safe_name
from pipelines.message import Message
from pipelines.options import Flag, Parallel
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.name_pattern import check_pattern, expand
from pipelines.outputs.stores import Content, ObjectStore, StoreError
from pipelines.outputs.stores.opening import open_store
from pipelines.outputs.stores.options import StoreOptions


class S3Options(StoreOptions):
    """Where the objects go, what they are called, and which of them are wanted."""

    pattern: str = Field(
        default="{mailbox}/{received:%Y/%m/%d}/{id}",
        description="Key of a message behind the prefix of URL, without ending; {id} is in it. Days are those of UTC.",
        examples=["{received:%Y-%m}/{id}"],
    )
    raw: Flag = Field(default=True, description="Whether the message itself is put there, as `KEY.eml`.")
    attachments: Flag = Field(
        default=False, description="Whether its attachments are put there, decoded, as `KEY/NAME`."
    )
    parallel: Parallel = 4

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        return check_pattern(pattern, needed=("id",))


class S3Output(Output):
    """Puts messages under URL, one after the other in a call."""

    type_name: ClassVar[str] = "s3"
    Options: ClassVar[type[OutputOptions]] = S3Options
    dedupes: ClassVar[bool] = True
    batch_size = 1

    options: S3Options
    _store: ObjectStore

    def __init__(self, name: str, options: S3Options) -> None:
        """Remember the options."""
        super().__init__(name, options)
        self.parallel = options.parallel

    def open(self) -> None:
        """Make the client, or the folder of a file URL.

        Raises:
            OSError: CA_FILE cannot be read, a folder cannot be made, or the options do not make a store.
        """
        self._store = open_store(self.options)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Put the messages one after the other; when nobody answers, the rest is not tried."""
        receipts: list[Receipt] = []
        for message in messages:
            try:
                self._put(message)
            except StoreError as error:
                receipt = Refused if error.refused else Retry
                receipts.append(receipt(str(error)))
                if error.unreachable:
                    untried = Retry(f"{error}; this message was not tried")
                    return receipts + [untried] * (len(messages) - len(receipts))
            else:
                receipts.append(Accepted())
        return receipts

    def _put(self, message: Message) -> None:
        key = expand(self.options.pattern, message)
        last = f"{key}.json"
        if self.options.raw:
            raw = Content.of(message.raw)
            added = self._store.add(f"{key}.eml", raw, media_type="message/rfc822")
            # A repetition, which is rare, needs no more than a look: the JSON came after all else.
            if not added and self._store.holds(last):
                return
        if self.options.attachments:
            for part in attachments(message):
                # With its number before it, which the JSON has as well, a name is unique and each time the same.
                name = f"{part.part_id}-{safe_name(part.name, type=part.type, part_id=part.part_id)}"
                # No media type of the sender's: a browser that opens the object is to run nothing.
                content = Content(part.size, part.chunks)
                self._store.add(f"{key}/{name}", content, media_type="application/octet-stream")
        self._store.add(last, Content.of(message.to_json()), media_type="application/json")
