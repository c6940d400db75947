"""The few pages that a person sees while signing in. No script but the one that posts a code back; no style to speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

FRAME = "<!doctype html><meta charset=utf-8><title>Demo sign-in</title><h1>Demo sign-in</h1>{body}"
DECISION = (
    "<button name=decision value=accept>Sign in</button> <button name=decision value=decline>Cancel</button>"
)


def _frame(body: str) -> str:
    return FRAME.format(body=body)


def _account_choice(accounts: Iterable[str], preferred: str = "") -> str:
    options = "".join(
        f"<option{' selected' if account == preferred else ''}>{escape(account)}</option>"
        for account in sorted(accounts)
    )
    return f"<p><label>Account <select name=upn>{options}</select></label></p>"


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type=hidden name="{escape(key)}" value="{escape(value)}">' for key, value in fields.items()
    )


def device_page(accounts: Iterable[str], user_code: str) -> str:
    """Asks for the code that the device shows, and for the account."""
    code = f'<p><label>Code <input name=user_code value="{escape(user_code)}"></label></p>'
    return _frame(f"<form method=post>{code}{_account_choice(accounts)}{DECISION}</form>")


def authorize_page(accounts: Iterable[str], request: Mapping[str, str]) -> str:
    """Asks for the account, with the client's hint chosen; its request travels along in hidden fields."""
    choice = _account_choice(accounts, request.get("login_hint", ""))
    return _frame(f"<form method=post>{_hidden(request)}{choice}{DECISION}</form>")


def post_back_page(redirect_uri: str, answer: Mapping[str, str]) -> str:
    """Posts the answer to the client (OAuth 2.0 Form Post Response Mode)."""
    form = (
        f'<form method=post action="{escape(redirect_uri)}">{_hidden(answer)}<button>Continue</button></form>'
    )
    return _frame(f"{form}<script>document.forms[0].submit()</script>")


def notice_page(sentence: str) -> str:
    """Says one sentence."""
    return _frame(f"<p>{escape(sentence)}</p>")
