"""What is known of providers fits together."""

from __future__ import annotations

from typing import get_args

import pytest

from worker.sources.providers import PORTS, PROVIDERS, Protocol, Provider, ProviderName, Tls


def test_every_provider_that_can_be_named_is_known_under_its_name() -> None:
    """The word in PROVIDER= always leads to a preset."""
    assert tuple(PROVIDERS) == get_args(ProviderName)
    assert all(name == provider.name for name, provider in PROVIDERS.items())


def test_every_protocol_has_a_port_with_every_kind_of_tls() -> None:
    """RFC 8314, RFC 9051 and RFC 1939; there is no way without TLS."""
    assert set(PORTS) == {(protocol, tls) for protocol in get_args(Protocol) for tls in get_args(Tls)}


@pytest.mark.parametrize("provider", [found for found in PROVIDERS.values() if found.name != "generic"])
def test_a_named_provider_presets_a_server_for_both_protocols(provider: Provider) -> None:
    """Only generic leaves the server to the mailbox."""
    assert set(provider.hosts) == set(get_args(Protocol))


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_every_provider_has_a_way_to_sign_in(provider: Provider) -> None:
    """A way that is not built yet does not count, and a delegated one has scopes for both protocols."""
    ways = set(provider.auths) - provider.planned

    assert ways
    assert provider.planned <= set(provider.auths)
    if "delegated" in ways:
        assert set(provider.scopes) == set(get_args(Protocol))
        assert provider.authority.format(tenant="t").startswith("https://")


def test_microsoft_scopes_are_whole_addresses() -> None:
    """Short names mean Microsoft Graph, and offline_access may not be passed to MSAL."""
    for name in ("microsoft365", "outlook"):
        scopes = [scope for found in PROVIDERS[name].scopes.values() for scope in found]
        assert all(scope.startswith("https://outlook.office.com/") for scope in scopes)
