"""Signs the demo's accounts in by device code; the part of the person at the browser is played here, and shown."""

from __future__ import annotations

from collections.abc import Callable

import requests

from worker.demo.addresses import Addresses
from worker.demo.variables import ACCOUNTS
from worker.errors import Unreachable
from worker.quay import Quay
from worker.sign_in import by_device_code


def sign_in_everybody(quay: Quay, addresses: Addresses, *, say: Callable[[str], None]) -> None:
    """Sign every account in, and say what a person would have done.

    Raises:
        MailquayError: as `by_device_code`.
    """
    for account in ACCOUNTS:

        def approve(page: str, code: str, account: str = account) -> None:
            say(f"{account} opens {page}, enters {code}, approves")
            _decide(page, code, account, ca_file=addresses.ca_file)

        by_device_code(quay, account, show=approve)


def _decide(page: str, code: str, account: str, *, ca_file: str) -> None:
    with requests.Session() as browser:
        browser.verify = ca_file
        # Neither a proxy nor a foreign bundle of certificates has a say here.
        browser.trust_env = False
        form = {"user_code": code, "upn": account, "decision": "accept"}
        try:
            browser.post(page, data=form, timeout=10).raise_for_status()
        except requests.RequestException as error:
            raise Unreachable(
                f"the demo's sign-in page did not take the approval of {account} ({type(error).__name__})"
            ) from error
