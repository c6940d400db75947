"""What `parse` promises for any bytes whatever: it returns, changes nothing, and its JSON can be encoded."""

from __future__ import annotations

import hashlib

import orjson

from pipelines import Message, Source, parse


def assert_promises_hold(raw: bytes) -> Message:
    """Parse `raw` and check all that is promised without knowing what is in it."""
    message = parse(raw, mailbox="support", source=Source(flags=("\\Seen",)))
    assert message.raw is raw
    assert message.digest == hashlib.sha256(raw).hexdigest()
    assert message.id == message.digest[:32]
    assert "parser-failed" not in {defect.code for defect in message.defects}
    values = orjson.loads(message.to_json())
    assert values == message.to_dict()
    assert "\0" not in "".join(texts(values))
    for part in message.structure.walk():
        if part.sub_parts is None:
            assert part.size == len(part.decode()) == sum(map(len, part.chunks()))
    for name, _ in message.headers:
        # Whatever somebody asks of a header, it answers.
        for form in (message.headers.addresses, message.headers.message_ids, message.headers.date,
                     message.headers.urls, message.headers.parameterized):  # fmt: skip
            form(name)
    return message


def texts(value: object) -> list[str]:
    """Return every text within JSON values."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (str(key), *texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return []
