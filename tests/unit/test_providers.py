"""What is known of providers fits together."""

from __future__ import annotations

from typing import get_args

import pytest

from worker.sources.providers import CLOUDS, PORTS, PROVIDERS, Cloud, CloudName, Protocol, ProviderName, Tls


def test_every_provider_that_can_be_named_is_known_under_its_name() -> None:
    """The word in PROVIDER= always leads to a preset."""
    assert tuple(PROVIDERS) == get_args(ProviderName)
    assert all(name == provider.name for name, provider in PROVIDERS.items())


def test_every_protocol_has_a_port_with_every_kind_of_tls() -> None:
    """RFC 8314, RFC 9051 and RFC 1939; there is no way without TLS."""
    assert set(PORTS) == {(protocol, tls) for protocol in get_args(Protocol) for tls in get_args(Tls)}


def test_a_named_provider_has_a_server_and_scopes_for_both_protocols() -> None:
    """Its own, or its cloud's; only generic leaves both to the mailbox."""
    for provider in PROVIDERS.values():
        assert provider.auths
        if provider.name != "generic" and provider.registration != "entra":
            assert set(provider.hosts) == set(get_args(Protocol))
            assert provider.scopes


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=lambda cloud: cloud.name)
def test_microsoft_scopes_are_whole_addresses(cloud: Cloud) -> None:
    """Short names mean Microsoft Graph, and an application on its own has to ask for everything that it was granted."""
    assert CLOUDS[cloud.name] is cloud
    assert cloud.scopes("delegated", "imap") == (f"{cloud.resource}/IMAP.AccessAsUser.All",)
    assert cloud.scopes("delegated", "pop3") == (f"{cloud.resource}/POP.AccessAsUser.All",)
    assert cloud.scopes("app", "imap") == cloud.scopes("app", "pop3") == (f"{cloud.app_resource}/.default",)
    assert cloud.resource.startswith("https://")


def test_the_public_cloud_is_as_microsoft_documents_it() -> None:
    """The scope of an application on its own has another host than a person's."""
    public = CLOUDS["public"]
    assert public.scopes("delegated", "imap") == ("https://outlook.office.com/IMAP.AccessAsUser.All",)
    assert public.scopes("app", "imap") == ("https://outlook.office365.com/.default",)
    assert set(CLOUDS) == set(get_args(CloudName))
