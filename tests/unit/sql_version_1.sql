-- What version 1 of the sql output makes of an empty SQLite, and a message that it stored. Released: it never changes.

CREATE TABLE mailquay_messages (
    id VARCHAR(32) NOT NULL,
    mailbox VARCHAR(255) NOT NULL,
    folder TEXT,
    message_id VARCHAR(512),
    in_reply_to VARCHAR(512),
    thread_id VARCHAR(512),
    subject TEXT,
    from_name TEXT,
    from_email VARCHAR(320),
    sent_at DATETIME,
    received_at DATETIME,
    stored_at DATETIME NOT NULL,
    size BIGINT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    has_attachment BOOLEAN NOT NULL,
    preview TEXT NOT NULL,
    text TEXT,
    html TEXT,
    json TEXT NOT NULL,
    raw BLOB,
    PRIMARY KEY (id)
);

CREATE TABLE mailquay_version (
    one INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (one)
);

CREATE TABLE mailquay_addresses (
    message VARCHAR(32) NOT NULL,
    field VARCHAR(8) NOT NULL,
    position INTEGER NOT NULL,
    name TEXT,
    email VARCHAR(320) NOT NULL,
    PRIMARY KEY (message, field, position),
    FOREIGN KEY(message) REFERENCES mailquay_messages (id) ON DELETE CASCADE
);

CREATE TABLE mailquay_attachments (
    message VARCHAR(32) NOT NULL,
    position INTEGER NOT NULL,
    part_id VARCHAR(255),
    name TEXT,
    type TEXT NOT NULL,
    disposition TEXT,
    cid TEXT,
    size BIGINT NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    content BLOB,
    PRIMARY KEY (message, position),
    FOREIGN KEY(message) REFERENCES mailquay_messages (id) ON DELETE CASCADE
);

CREATE INDEX mailquay_messages_from_email ON mailquay_messages (from_email);
CREATE INDEX mailquay_messages_mailbox ON mailquay_messages (mailbox, received_at);
CREATE INDEX mailquay_messages_message_id ON mailquay_messages (message_id);
CREATE INDEX mailquay_messages_stored_at ON mailquay_messages (stored_at);
CREATE INDEX mailquay_messages_thread_id ON mailquay_messages (thread_id);
CREATE INDEX mailquay_addresses_email ON mailquay_addresses (email, field);
CREATE INDEX mailquay_attachments_sha256 ON mailquay_attachments (sha256);

insert into mailquay_version values (1, 1);
insert into mailquay_messages (id, mailbox, subject, stored_at, size, digest, has_attachment, preview, json) values (
    '92599d596cc345cad9868fa56681d12f', 'contract', 'stored by version 1', '2026-11-24 12:00:00.000000', 65,
    'b3650f08ff0a4608687d698e68788cd4ec38d8a349a749a45f11fc29e9c6f419', 0, 'Hello.', '{}'
);
insert into mailquay_addresses values ('92599d596cc345cad9868fa56681d12f', 'from', 1, null, 'a@example.com');
insert into mailquay_addresses values ('92599d596cc345cad9868fa56681d12f', 'to', 1, null, 'b@example.com');
