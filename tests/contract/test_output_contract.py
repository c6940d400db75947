"""Every built-in output keeps the promises of `pipelines.testing`; a new output adds its case here."""

from __future__ import annotations

import base64
import mailbox
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from pipelines.message import Message
from pipelines.outputs.amqp import AmqpOptions, AmqpOutput
from pipelines.outputs.celery_task import CeleryOptions, CeleryOutput
from pipelines.outputs.exec import ExecOptions, ExecOutput
from pipelines.outputs.files import FilesOptions, FilesOutput
from pipelines.outputs.imap import ImapOptions, ImapOutput
from pipelines.outputs.jsonl import JsonlOptions, JsonlOutput
from pipelines.outputs.kafka import KafkaOptions, KafkaOutput
from pipelines.outputs.maildir import MaildirOptions, MaildirOutput
from pipelines.outputs.mbox import MboxOptions, MboxOutput
from pipelines.outputs.nats import NatsOptions, NatsOutput
from pipelines.outputs.opensearch import OpenSearchOptions, OpenSearchOutput
from pipelines.outputs.parquet import ParquetOptions, ParquetOutput
from pipelines.outputs.redis_stream import RedisStreamOptions, RedisStreamOutput
from pipelines.outputs.s3 import S3Options, S3Output
from pipelines.outputs.search_document import document
from pipelines.outputs.smtp import SmtpOptions, SmtpOutput
from pipelines.outputs.sql import SqlOptions, SqlOutput
from pipelines.outputs.stdout import LineStream, StdoutOptions, StdoutOutput
from pipelines.outputs.webhook import WebhookOptions, WebhookOutput
from pipelines.registry import load_output, output_types
from pipelines.testing import TELLTALE, OutputContract
from tests.bed.database import MariaDb, Postgres, fresh, rows
from tests.bed.dovecot import Dovecot
from tests.bed.imap_folder import ImapFolder
from tests.bed.kafka import MockKafka
from tests.bed.nats import NatsServer
from tests.bed.object_store import ObjectServer, object_server
from tests.bed.postbox import Postbox, attached
from tests.bed.processes import free_port
from tests.bed.rabbitmq import RabbitMq
from tests.bed.search import cluster
from tests.bed.valkey import Valkey
from tests.contract.receiver import receiving
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB


def secret() -> str:
    """A secret of which also a part is recognised where it must not be."""
    return f"{TELLTALE}-{secrets.token_hex(8)}"


class TestAmqp(OutputContract):
    """To a queue of a real RabbitMQ."""

    @pytest.fixture(autouse=True)
    def _queue(self, rabbitmq: RabbitMq) -> None:
        self.rabbitmq, self.queue = rabbitmq, f"contract-{secrets.token_hex(4)}"
        with rabbitmq.channel() as channel:
            channel.queue_declare(self.queue, durable=True, auto_delete=False)

    def make(self) -> AmqpOutput:
        return AmqpOutput(
            "bus", AmqpOptions.model_validate({"url": self.rabbitmq.url, "routing_key": self.queue})
        )

    def out_of_reach(self) -> AmqpOutput:
        url = f"amqp://robot:{secret()}@127.0.0.1:{free_port()}/"
        return AmqpOutput("bus", AmqpOptions.model_validate({"url": url, "password": secret()}))

    def read(self) -> list[tuple[str, bytes]]:
        return [
            (found.properties["message_id"], found.body.encode()) for found in self.rabbitmq.take(self.queue)
        ]


class TestCelery(OutputContract):
    """To the list in a real Valkey from which a worker would take its tasks."""

    @pytest.fixture(autouse=True)
    def _broker(self, fresh_valkey: Valkey) -> None:
        self.valkey = fresh_valkey

    def make(self) -> CeleryOutput:
        return CeleryOutput(
            "crm", CeleryOptions.model_validate({"broker_url": self.valkey.url, "task": "crm.take"})
        )

    def out_of_reach(self) -> CeleryOutput:
        said = {"broker_url": f"redis://:{secret()}@127.0.0.1:{free_port()}/3", "task": "crm.take"}
        return CeleryOutput("crm", CeleryOptions.model_validate({**said, "timeout": "2s"}))

    def read(self) -> list[tuple[str, bytes]]:
        with self.valkey.client() as client:
            tasks = [orjson.loads(task) for task in client.lrange("celery", 0, -1)]
        return [
            (task["headers"]["id"], orjson.dumps(orjson.loads(base64.b64decode(task["body"]))[0][0]))
            for task in tasks
        ]


class TestExec(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "out"
        self.path.mkdir()

    def make(self) -> ExecOutput:
        # Each run leaves a file of its own, which is what this system makes of a repetition.
        program = 'cat > "$0/$MAILQUAY_ID.$$.part" && mv "$0/$MAILQUAY_ID.$$.part" "$0/$MAILQUAY_ID.$$"'
        return ExecOutput(
            "robot", ExecOptions(command=shlex.join(["/bin/sh", "-c", program, str(self.path)]))
        )

    def read(self) -> list[tuple[str, bytes]]:
        return [(file.name[:32], file.read_bytes()) for file in self.path.iterdir()]

    def expected(self, message: Message) -> bytes:
        return bytes(message.raw)


class TestFiles(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "mail"

    def make(self) -> FilesOutput:
        return FilesOutput("copy", FilesOptions(path=self.path))

    def read(self) -> list[tuple[str, bytes]]:
        assert not list(self.path.glob(".tmp/*"))
        places = [file.parent for file in self.path.rglob("message.json")]
        return [
            (place.name, (place / "message.eml").read_bytes() + (place / "message.json").read_bytes())
            for place in places
        ]

    def expected(self, message: Message) -> bytes:
        return bytes(message.raw) + message.to_json()


class TestImap(OutputContract):
    """Into a real Dovecot, with MARK=yes, without which a mail server has nothing by which an id can be read back."""

    @pytest.fixture(autouse=True)
    def _folder(self, dovecot: Dovecot) -> Iterator[None]:
        with ImapFolder(dovecot, BOB) as self.folder:
            yield

    def make(self) -> ImapOutput:
        return ImapOutput("copy", ImapOptions.model_validate({**self.folder.options, "mark": "yes"}))

    def out_of_reach(self) -> ImapOutput:
        said = {"host": "127.0.0.1", "port": free_port(), "username": "robot", "password": secret()}
        return ImapOutput("copy", ImapOptions.model_validate(said))

    def read(self) -> list[tuple[str, bytes]]:
        lines = (filed.raw.partition(b"\r\n") for filed in self.folder.messages())
        return [(first[-32:].decode(), rest) for first, _, rest in lines]

    def expected(self, message: Message) -> bytes:
        # What Dovecot makes of lone line feeds and NULs, which IMAP cannot carry.
        return re.sub(rb"(?<!\r)\n", b"\r\n", bytes(message.raw)).replace(b"\0", b"\x80")


class TestJsonl(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "mail.jsonl"

    def make(self) -> JsonlOutput:
        return JsonlOutput("archive", JsonlOptions(path=self.path))

    def read(self) -> list[tuple[str, bytes]]:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [(orjson.loads(line)["id"], line) for line in lines]


class TestKafka(OutputContract):
    """To librdkafka's mock cluster; there is no real one to be had."""

    @pytest.fixture(autouse=True)
    def _cluster(self) -> Iterator[None]:
        self.cluster = MockKafka()
        self.cluster.make_topic("mailquay")
        yield
        self.cluster.close()

    def make(self) -> KafkaOutput:
        return KafkaOutput("bus", KafkaOptions.model_validate({"servers": self.cluster.servers}))

    def out_of_reach(self) -> KafkaOutput:
        said = {"servers": f"127.0.0.1:{free_port()}", "timeout": "1s", "sasl": "PLAIN"}
        whose = {"username": "robot", "password": secret(), "settings": f"ssl.key.password={secret()}"}
        return KafkaOutput("bus", KafkaOptions.model_validate({**said, **whose}))

    def read(self) -> list[tuple[str, bytes]]:
        return [(record.headers["id"], record.value) for record in self.cluster.records("mailquay")]


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


class TestMbox(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "mail.mbox"

    def make(self) -> MboxOutput:
        return MboxOutput("copy", MboxOptions(path=self.path))

    def read(self) -> list[tuple[str, bytes]]:
        if not self.path.exists():
            return []
        box = mailbox.mbox(self.path, create=False)
        froms = [box.get_bytes(key, from_=True) for key in box.keys()]  # noqa: SIM118
        messages = [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118
        box.close()
        unquoted = [re.sub(rb"^>(?=>*From )", b"", message, flags=re.MULTILINE) for message in messages]
        return [(whole[5:37].decode(), message) for whole, message in zip(froms, unquoted, strict=True)]

    def expected(self, message: Message) -> bytes:
        raw = bytes(message.raw)
        return raw if raw.endswith(b"\n") or not raw else raw + b"\n"


class TestNats(OutputContract):
    """To a stream of a real nats-server."""

    @pytest.fixture(autouse=True)
    def _stream(self, nats_server: NatsServer) -> None:
        self.server = nats_server
        self.server.empty()
        self.server.make_stream("MAIL", "mailquay")

    def make(self) -> NatsOutput:
        return NatsOutput("bus", NatsOptions.model_validate({"url": self.server.url}))

    def out_of_reach(self) -> NatsOutput:
        url = f"nats://robot:{secret()}@127.0.0.1:{free_port()}"
        return NatsOutput("bus", NatsOptions.model_validate({"url": url, "timeout": "2s"}))

    def read(self) -> list[tuple[str, bytes]]:
        return self.server.stored("MAIL")


class TestRedisStream(OutputContract):
    """To a stream of a real Valkey."""

    @pytest.fixture(autouse=True)
    def _server(self, fresh_valkey: Valkey) -> None:
        self.valkey = fresh_valkey

    def make(self) -> RedisStreamOutput:
        return RedisStreamOutput("feed", RedisStreamOptions.model_validate({"url": self.valkey.url}))

    def out_of_reach(self) -> RedisStreamOutput:
        url = f"redis://robot:{secret()}@127.0.0.1:{free_port()}/1"
        return RedisStreamOutput(
            "feed", RedisStreamOptions.model_validate({"url": url, "password": secret()})
        )

    def read(self) -> list[tuple[str, bytes]]:
        with self.valkey.client() as client:
            return [(fields[b"id"].decode(), fields[b"json"]) for _, fields in client.xrange("mailquay")]


class SqlContract(OutputContract):
    url: str

    def make(self) -> SqlOutput:
        return SqlOutput("archive", SqlOptions.model_validate({"url": self.url, "raw": "yes"}))

    def read(self) -> list[tuple[str, bytes]]:
        held = rows(self.url, "mailquay_messages")
        return [(row["id"], _as_text(row["json"])) for row in held]


def _as_text(held: object) -> bytes:
    """What a column of JSON holds: text, or, in PostgreSQL, an object whose keys have no order."""
    return held.encode() if isinstance(held, str) else orjson.dumps(held, option=orjson.OPT_SORT_KEYS)


class TestSql(SqlContract):
    """In SQLite."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/folder/mail.db"


class TestSqlInPostgres(SqlContract):
    """In PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres: Postgres) -> None:
        self.url = fresh(postgres)

    def out_of_reach(self) -> SqlOutput:
        url = f"postgresql+psycopg://robot@127.0.0.1:{free_port()}/mail"
        return SqlOutput("archive", SqlOptions.model_validate({"url": url, "password": secret()}))

    def expected(self, message: Message) -> bytes:
        return _as_text(message.to_dict())


class TestSqlInMariaDb(SqlContract):
    """In MariaDB."""

    @pytest.fixture(autouse=True)
    def _place(self, mariadb: MariaDb) -> None:
        self.url = fresh(mariadb)

    def out_of_reach(self) -> SqlOutput:
        url = f"mysql+pymysql://robot@127.0.0.1:{free_port()}/mail"
        return SqlOutput("archive", SqlOptions.model_validate({"url": url, "password": secret()}))


class TestStdout(OutputContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path / "stdout"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        # The threads of one process share it.
        self.stream = LineStream(file)
        yield
        os.close(file)

    def make(self) -> StdoutOutput:
        return StdoutOutput("pipe", StdoutOptions(), stream=self.stream)

    def read(self) -> list[tuple[str, bytes]]:
        return [(orjson.loads(line)["id"], line) for line in self.path.read_bytes().splitlines()]


class TestSmtp(OutputContract):
    """Into a real SMTP server, as forwards."""

    @pytest.fixture(autouse=True)
    def _receive(self, certificates: Certificates) -> Iterator[None]:
        with Postbox(certificates) as self.postbox:
            yield

    def make(self) -> SmtpOutput:
        said = {"host": "127.0.0.1", "port": self.postbox.port, "tls": "none", "to": "to@example.com"}
        return SmtpOutput("copy", SmtpOptions.model_validate({**said, "from": "from@example.com"}))

    def out_of_reach(self) -> SmtpOutput:
        said = {"host": "127.0.0.1", "port": free_port(), "username": "robot", "password": secret()}
        whom = {"from": "from@example.com", "to": "to@example.com"}
        return SmtpOutput("copy", SmtpOptions.model_validate({**said, **whom}))

    def read(self) -> list[tuple[str, bytes]]:
        contents = [posted.content for posted in self.postbox.taken]
        ids = [re.search(rb"^Message-ID: <(\w{32})\.copy@", content, re.MULTILINE) for content in contents]
        return [
            (id_[1].decode(), attached(content)) for id_, content in zip(ids, contents, strict=True) if id_
        ]

    def expected(self, message: Message) -> bytes:
        return bytes(message.raw)


class TestWebhook(OutputContract):
    @pytest.fixture(autouse=True)
    def _receive(self) -> Iterator[None]:
        with receiving() as self.receiver:
            yield

    def make(self) -> WebhookOutput:
        return WebhookOutput("crm", WebhookOptions(url=self.receiver.url))

    def out_of_reach(self) -> WebhookOutput:
        url = f"http://robot:{secret()}@127.0.0.1:{free_port()}/{secret()}?key={secret()}"
        signs = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        said = {"url": url, "secret": signs, "headers": f"X-Token: {secret()}"}
        return WebhookOutput("crm", WebhookOptions.model_validate(said))

    def read(self) -> list[tuple[str, bytes]]:
        return [(call.headers["webhook-id"], call.body) for call in self.receiver.calls]


class TestWebhookRaw(TestWebhook):
    """With CONTENT=raw."""

    def make(self) -> WebhookOutput:
        return WebhookOutput("crm", WebhookOptions(url=self.receiver.url, content="raw"))

    def expected(self, message: Message) -> bytes:
        return bytes(message.raw)


class TestWebhookWithAttachments(TestWebhook):
    """With CONTENT=json+attachments."""

    def make(self) -> WebhookOutput:
        return WebhookOutput("crm", WebhookOptions(url=self.receiver.url, content="json+attachments"))

    def expected(self, message: Message) -> bytes:
        return message.to_json()[:-1] + b',"attachmentContents":{}}'


def nowhere() -> dict[str, str]:
    """A store that is not there."""
    said = {"url": "s3://mail/in", "endpoint": f"http://127.0.0.1:{free_port()}", "timeout": "2s"}
    return {**said, "access_key": "robot", "secret_key": secret()}


@pytest.fixture(scope="module")
def object_stores() -> Iterator[ObjectServer]:
    with object_server() as server:
        yield server


class TestOpenSearch(OutputContract):
    """Against a server that answers as the documentation says; there is no real one to be had."""

    @pytest.fixture(autouse=True)
    def _cluster(self) -> Iterator[None]:
        with cluster() as self.cluster:
            yield

    def make(self) -> OpenSearchOutput:
        return OpenSearchOutput("search", OpenSearchOptions(url=self.cluster.url))

    def out_of_reach(self) -> OpenSearchOutput:
        said = {"url": f"http://127.0.0.1:{free_port()}", "username": "robot", "password": secret()}
        return OpenSearchOutput("search", OpenSearchOptions.model_validate(said))

    def read(self) -> list[tuple[str, bytes]]:
        return [(id_, found) for (_, id_), found in self.cluster.documents.items()]

    def expected(self, message: Message) -> bytes:
        return document(message)


class TestParquet(OutputContract):
    """In a folder; a store is in tests/unit/test_parquet.py."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder"

    def make(self) -> ParquetOutput:
        return ParquetOutput("lake", ParquetOptions(url=f"file://{self.path}"))

    def out_of_reach(self) -> ParquetOutput:
        return ParquetOutput("lake", ParquetOptions.model_validate(nowhere()))

    def read(self) -> list[tuple[str, bytes]]:
        tables = [pq.read_table(file).to_pylist() for file in self.path.rglob("*.parquet")]
        return [(row["id"], row["json"].encode()) for table in tables for row in table]


class TestS3(OutputContract):
    """Over HTTP, against moto's server."""

    @pytest.fixture(autouse=True)
    def _bucket(self, object_stores: ObjectServer) -> None:
        self.bucket = object_stores.bucket()

    def make(self) -> S3Output:
        return S3Output("archive", S3Options.model_validate(self.bucket.options("in")))

    def out_of_reach(self) -> S3Output:
        return S3Output("archive", S3Options.model_validate(nowhere()))

    def read(self) -> list[tuple[str, bytes]]:
        found = self.bucket.objects()
        assert {key[:-5] for key in found if key.endswith(".json")} == {
            key[:-4] for key in found if key.endswith(".eml")
        }
        return [(key[-37:-5], json) for key, json in found.items() if key.endswith(".json")]


class TestS3Folder(OutputContract):
    """In a folder of this machine."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder"

    def make(self) -> S3Output:
        return S3Output("archive", S3Options(url=f"file://{self.path}"))

    def read(self) -> list[tuple[str, bytes]]:
        return [(file.stem, file.read_bytes()) for file in self.path.rglob("*.json")]


def test_every_registered_output_has_its_contract_tests() -> None:
    """An output that is registered and not tested here has not promised anything."""
    tested = {
        "amqp": TestAmqp,
        "celery": TestCelery,
        "exec": TestExec,
        "files": TestFiles,
        "imap": TestImap,
        "jsonl": TestJsonl,
        "kafka": TestKafka,
        "maildir": TestMaildir,
        "mbox": TestMbox,
        "nats": TestNats,
        "opensearch": TestOpenSearch,
        "parquet": TestParquet,
        "redis_stream": TestRedisStream,
        "s3": TestS3,
        "smtp": TestSmtp,
        "sql": TestSql,
        "stdout": TestStdout,
        "webhook": TestWebhook,
    }

    assert set(output_types()) == set(tested)
    assert all(load_output(name).type_name == name for name in tested)
