"""What a provider's answer means: who must act, and when it is asked again. Pure.

Decided on HTTP status, `error` and `suberror` alone (RFC 6749 section 5.2; Microsoft: react to `error`, never to the
text). AADSTS numbers are help for people. Whatever is unknown is somebody's configuration, said once and asked rarely.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from worker import errors
from worker.errors import (
    AccountTrouble,
    MailquayError,
    NeedsAdmin,
    NeedsSignIn,
    OurBug,
    RegistrationRefused,
    SignInDoubtful,
    Throttled,
    Unreachable,
)
from worker.tokens import Stored, Trouble
from worker.tokens.aadsts import help_for

DOUBT_SECONDS = 15 * 60.0
"""A grant that worked lately and is refused is tried again for so long before its owner is told."""
LATELY_SECONDS = 3 * 86400.0
"""What counts as having worked lately: a token lives for an hour, so a mailbox in use renews every day."""
_LOOK_AGAIN_SECONDS = 3600.0
_MENDED_ELSEWHERE_SECONDS = 300.0
"""An administrator or operator mends things where nobody here sees it, so it is looked at more often."""
_LONGEST_THROTTLE_SECONDS = 3600.0

# Suberrors as MSAL's classification names them.
_ADMIN_SUBERRORS = {"message_only", "device_authentication_failed", "protection_policy_required"}
_OWNER_ERRORS = {"invalid_grant", "interaction_required", "login_required", "consent_required", "no_account"}
_ADMIN_ERRORS = {"unauthorized_client", "invalid_resource", "access_denied"}
_PASSING_ERRORS = {"temporarily_unavailable", "server_error", "slow_down"}
_OUR_ERRORS = {"unsupported_grant_type", "unsupported_response_type"}


def refusal(
    account: str, answer: Mapping[str, Any], *, status: int = 400, retry_after: float | None = None
) -> MailquayError:
    """The error behind an answer of the token endpoint. `retry_after` is what the server asked for, in seconds."""
    error, suberror = _word(answer, "error") or "unknown", _word(answer, "suberror")
    listed = answer.get("error_codes")
    codes = [code for code in listed if isinstance(code, int)] if isinstance(listed, list) else []
    said = f"the identity provider says {error}" + (f"/{suberror}" if suberror else "")
    said += "".join(f" AADSTS{code}" for code in codes) + f" for {account}"
    hint = f": {found}" if (found := help_for(codes)) else ""
    if status == 429 or (retry_after and status >= 500):
        # In this order NaN counts as one second.
        seconds = min(max(1.0, retry_after or 60.0), _LONGEST_THROTTLE_SECONDS)
        return Throttled(f"{said}. It is asked again in {seconds:.0f} s", seconds=seconds)
    if status >= 500 or error in _PASSING_ERRORS:
        return Unreachable(f"{said}{hint}. It is tried again")
    if error in _OUR_ERRORS:
        return OurBug(f"{said}{hint}. This is a bug in Mailquay or a very unusual provider; please report it")
    if suberror in _ADMIN_SUBERRORS:
        return NeedsAdmin(f"{said}{hint or ': a policy forbids it'}. An administrator has to allow it")
    if error in _OWNER_ERRORS and suberror != "client_mismatch":
        again = f"The owner has to sign in again: `mailquay login {account}`"
        return NeedsSignIn(f"{said}{hint}. {again}")
    if error in _ADMIN_ERRORS:
        unknown = ": the application is unknown to the tenant or may not do this"
        return NeedsAdmin(f"{said}{hint or unknown}. An administrator has to look at the app registration")
    return RegistrationRefused(
        f"{said}{hint}. Check the app registration: client id, tenant or issuer, secret or certificate, scopes"
    )


def _word(answer: Mapping[str, Any], field: str) -> str:
    """What a provider says in a field that is for programs; whatever cannot be a code (RFC 6749 section 5.2) is nothing."""
    said = answer.get(field)
    return said if isinstance(said, str) and re.fullmatch(r"[ !#-\[\]-~]{1,80}", said) else ""


def declined(account: str, answer: Mapping[str, Any], *, status: int = 400) -> MailquayError:
    """The error behind a sign-in that came to nothing (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5)."""
    error = _word(answer, "error")
    again = f"Run `mailquay login {account}` again"
    if error in {"authorization_declined", "access_denied"} and not answer.get("suberror"):
        return NeedsSignIn(f"the sign-in as {account} was declined. {again}")
    if error in {"expired_token", "code_expired", "authorization_pending"}:
        return NeedsSignIn(f"nobody approved the sign-in as {account} in time. {again}")
    return refusal(account, answer, status=status)


def judged(
    error: MailquayError, stored: Stored, before: Trouble | None, now: float
) -> tuple[MailquayError, Trouble]:
    """What is raised for a refused or failed renewal, and what is noted so that nobody asks again too soon.

    `before` is what was noted of the same scopes. An outage between two refusals does not begin the doubt anew.
    """
    refused_since = before.refused_since if before else None
    if isinstance(error, AccountTrouble) and refused_since is None:
        refused_since = now
    tries = before.tries + 1 if before else 1
    if isinstance(error, NeedsSignIn | NeedsAdmin) and refused_since is not None:
        worked_lately = stored.grant is not None and refused_since - stored.renewed_at < LATELY_SECONDS
        if worked_lately and now < refused_since + DOUBT_SECONDS:
            # A directory that is being moved, a policy taken back: it heals by itself more often than not.
            error = SignInDoubtful(
                f"{error.sentence}. It worked lately, so it is tried again for {DOUBT_SECONDS / 60:.0f} minutes first"
            )
    return error, Trouble(
        type(error).__name__, error.sentence, tries, now + _pause(error, tries), refused_since
    )


def _pause(error: MailquayError, tries: int) -> float:
    """Seconds for which nobody asks again."""
    if isinstance(error, Throttled):
        return error.seconds
    if isinstance(error, SignInDoubtful):
        return float(min(30.0 * 2 ** min(tries - 1, 10), 240.0))
    if error.retried:
        return float(min(5.0 * 2 ** min(tries - 1, 10), 60.0))
    return _LOOK_AGAIN_SECONDS if isinstance(error, NeedsSignIn) else _MENDED_ELSEWHERE_SECONDS


def restored(trouble: Trouble, now: float) -> MailquayError:
    """The error that a noted trouble stands for, without asking the provider."""
    if trouble.kind == Throttled.__name__:
        return Throttled(trouble.sentence, seconds=max(trouble.again_at - now, 1.0))
    found: MailquayError = getattr(errors, trouble.kind, Unreachable)(trouble.sentence)
    return found


def lasting(trouble: Trouble | None) -> bool:
    """Whether a noted trouble waits for a person."""
    return trouble is not None and _refused(trouble.kind) and not getattr(errors, trouble.kind).retried


def _refused(kind: str) -> bool:
    """Whether the provider said no, rather than nothing."""
    found = getattr(errors, kind, None)
    return isinstance(found, type) and issubclass(found, AccountTrouble)
