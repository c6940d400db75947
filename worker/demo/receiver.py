"""The demo's webhook receiver: checks each call's Standard Webhooks signature and writes one line about it.

It follows the Standard Webhooks specification, "Verifying webhooks", and shares no code with the output that signs,
so that one proves the other. What it accepts it appends to a file; what it refuses it only refuses. Of a body only the
digest of the message that it describes is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

TOLERANCE_SECONDS = 300


def receiver_app(secret: str, log_file: Path, *, clock: Callable[[], float]) -> Starlette:
    """An application that takes webhooks at `/hook`.

    Args:
        secret: What the sender signs with, `whsec_` and base64.
        log_file: Gets one JSON object a line for each accepted call: `webhook-id`, `timestamp`, `ok`, `size`,
            and `digest` when the body names one.
        clock: Seconds since the epoch.
    """

    async def hook(request: Request) -> Response:
        body = await request.body()
        if not signed(request.headers, body, secret=secret, now=clock()):
            return PlainTextResponse("The signature is missing, wrong or too old.", status_code=401)
        line = {
            "webhook-id": request.headers["webhook-id"],
            "timestamp": int(request.headers["webhook-timestamp"]),
            "ok": True,
            "size": len(body),
            **_digest(body),
        }
        with log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return Response(status_code=204)

    return Starlette(routes=[Route("/hook", hook, methods=["POST"])])


def _digest(body: bytes) -> dict[str, str]:
    """The digest of the raw message, as a body of Mailquay's says it."""
    try:
        return {"digest": str(json.loads(body)["digest"])}
    except (ValueError, TypeError, KeyError):
        return {}


def signed(headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> bool:
    """Whether one of the call's signatures is ours: HMAC-SHA256 over `id.timestamp.body`, at most five minutes old."""
    call_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not call_id or not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{call_id}.{timestamp}.".encode() + body, hashlib.sha256)
    ours = "v1," + base64.b64encode(digest).decode()
    candidates = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(ours.encode(), candidate.encode()) for candidate in candidates)
