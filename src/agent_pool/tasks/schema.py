"""The tables of the store, as steps from one version to the next."""

from __future__ import annotations

from typing import Final

_VERSION_1: Final = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    agent TEXT NOT NULL,
    project TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker TEXT NOT NULL DEFAULT '',
    pid INTEGER NOT NULL DEFAULT 0,
    node TEXT NOT NULL DEFAULT '',
    line TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    not_before REAL,
    deadline REAL,
    idempotency_key TEXT,
    idempotent INTEGER NOT NULL DEFAULT 0,
    parent TEXT,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    keeper TEXT NOT NULL DEFAULT '',
    cancel_asked INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX tasks_key ON tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX tasks_state ON tasks (state, number);
CREATE INDEX tasks_agent ON tasks (agent, state, number);
CREATE INDEX tasks_project ON tasks (project, state, number);
CREATE INDEX tasks_agent_project ON tasks (agent, project, state, number);
CREATE INDEX tasks_parent ON tasks (parent, number) WHERE parent IS NOT NULL;
CREATE INDEX tasks_created ON tasks (created, number);
CREATE INDEX tasks_ended ON tasks (ended) WHERE ended IS NOT NULL;

CREATE TABLE contents (
    number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    task TEXT NOT NULL,
    request TEXT NOT NULL,
    answer TEXT,
    result TEXT,
    error TEXT
);
CREATE TABLE attachments (
    number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    json TEXT NOT NULL
);
CREATE TABLE secrets (
    number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    env TEXT NOT NULL
);
CREATE TABLE events (
    task INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
    number INTEGER NOT NULL,
    time REAL NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (task, number)
);
CREATE TABLE days (
    day TEXT NOT NULL,
    project TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    PRIMARY KEY (day, project)
) WITHOUT ROWID
"""

MIGRATIONS: Final = (_VERSION_1,)
"""One SQL script a version. A script that was once released is never changed."""
