"""Every built-in output keeps the promises of `pipelines.testing`; a new output adds its case here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from pipelines.message import Message
from pipelines.outputs.jsonl import JsonlOptions, JsonlOutput
from pipelines.outputs.maildir import MaildirOptions, MaildirOutput
from pipelines.outputs.webhook import WebhookOptions, WebhookOutput
from pipelines.registry import load_output, output_types
from pipelines.testing import OutputContract
from tests.contract.receiver import receiving


class TestJsonl(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "mail.jsonl"

    def make(self) -> JsonlOutput:
        return JsonlOutput("archive", JsonlOptions(path=self.path))

    def read(self) -> list[tuple[str, bytes]]:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [(orjson.loads(line)["id"], line) for line in lines]


class TestMaildir(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "Maildir"

    def make(self) -> MaildirOutput:
        return MaildirOutput("copy", MaildirOptions(path=self.path))

    def read(self) -> list[tuple[str, bytes]]:
        return [(file.name[:32], file.read_bytes()) for file in self.path.glob("new/*")]

    def expected(self, message: Message) -> bytes:
        return bytes(message.raw)


class TestWebhook(OutputContract):
    @pytest.fixture(autouse=True)
    def _receive(self) -> Iterator[None]:
        with receiving() as self.receiver:
            yield

    def make(self) -> WebhookOutput:
        return WebhookOutput("crm", WebhookOptions(url=self.receiver.url))

    def read(self) -> list[tuple[str, bytes]]:
        return [(call.headers["webhook-id"], call.body) for call in self.receiver.calls]


def test_every_registered_output_has_its_contract_tests() -> None:
    """An output that is registered and not tested here has not promised anything."""
    tested = {"jsonl": TestJsonl, "maildir": TestMaildir, "webhook": TestWebhook}

    assert set(output_types()) == set(tested)
    assert all(load_output(name).type_name == name for name in tested)
