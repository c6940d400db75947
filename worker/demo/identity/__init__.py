"""A local identity provider that speaks Entra's protocol: sign-in for the demo and for tests.

`IdentityProvider` holds the state and decides; `routes` is its HTTP surface; `lab` steers it. It is stricter than
Entra where a test needs that (refresh tokens that die on reuse), and it trusts whoever fills in its forms.
"""

from __future__ import annotations

from worker.demo.identity.access import Verdict
from worker.demo.identity.grants import Application, FederatedCredential
from worker.demo.identity.provider import IdentityProvider
from worker.demo.identity.settings import Settings

__all__ = ["Application", "FederatedCredential", "IdentityProvider", "Settings", "Verdict"]
