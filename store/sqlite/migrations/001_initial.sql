-- +goose Up
-- Times are microseconds since 1970, 0 for none. Documents are JSON.

-- One counter orders everything that a router or a lease has to compare. It
-- begins with the time, so that a database made anew is never behind a router.
CREATE TABLE epochs (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO epochs (id, value) VALUES (1, CAST(unixepoch() AS INTEGER) * 1000);

CREATE TABLE services (
    name           TEXT PRIMARY KEY,
    stable_version TEXT NOT NULL,
    stable_url     TEXT NOT NULL,
    held_by        TEXT NOT NULL DEFAULT ''
);

CREATE TABLE releases (
    id               TEXT PRIMARY KEY,
    service          TEXT NOT NULL,
    digest           TEXT NOT NULL,
    phase            TEXT NOT NULL,
    plan_version     BIGINT NOT NULL,
    attempt          BIGINT NOT NULL,
    gen              BIGINT NOT NULL DEFAULT 0,
    epoch            BIGINT NOT NULL DEFAULT 0,
    next_run_at      BIGINT NOT NULL,
    deadline_at      BIGINT NOT NULL,
    stage_started_at BIGINT NOT NULL,
    lease_owner      TEXT NOT NULL DEFAULT '',
    lease_until      BIGINT NOT NULL DEFAULT 0,
    created_at       BIGINT NOT NULL,
    release          TEXT NOT NULL,
    plan             TEXT NOT NULL,
    state            TEXT NOT NULL
);
CREATE INDEX releases_due ON releases (next_run_at) WHERE phase <> 'done';
CREATE INDEX releases_by_service ON releases (service, created_at);

CREATE TABLE facts (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    release_id TEXT NOT NULL REFERENCES releases (id),
    fact       TEXT NOT NULL
);
CREATE INDEX facts_by_release ON facts (release_id, seq);

CREATE TABLE stage_runs (
    release_id TEXT NOT NULL REFERENCES releases (id),
    stage      TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    run        TEXT NOT NULL,
    PRIMARY KEY (release_id, stage)
);

CREATE TABLE ticks (
    release_id TEXT NOT NULL REFERENCES releases (id),
    seq        BIGINT NOT NULL,
    tick       TEXT NOT NULL,
    decision   TEXT NOT NULL,
    PRIMARY KEY (release_id, seq)
);

-- The audit trail. Rows that are not sealed yet have to enter the evidence log.
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT UNIQUE,
    release_id TEXT NOT NULL,
    tenant_id  TEXT NOT NULL,
    kind       TEXT NOT NULL,
    sealed     BIGINT NOT NULL DEFAULT 0,
    event      TEXT NOT NULL
);
CREATE INDEX events_by_release ON events (release_id, seq);
CREATE INDEX events_unsealed ON events (seq) WHERE sealed = 0;

CREATE TABLE quarantine (
    service    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    release_id TEXT NOT NULL,
    at         BIGINT NOT NULL,
    PRIMARY KEY (service, digest)
);

CREATE TABLE rollbacks (
    id          TEXT PRIMARY KEY,
    service     TEXT NOT NULL,
    release_id  TEXT NOT NULL,
    restored    BIGINT NOT NULL DEFAULT 0,
    started_at  BIGINT NOT NULL,
    rollback    TEXT NOT NULL
);
CREATE INDEX rollbacks_active ON rollbacks (service, started_at) WHERE restored = 0;

CREATE TABLE flags (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE plans (release_id TEXT PRIMARY KEY, plan TEXT NOT NULL);

CREATE TABLE log_entries (
    idx            BIGINT PRIMARY KEY,
    release_id     TEXT NOT NULL,
    predicate_type TEXT NOT NULL,
    at             BIGINT NOT NULL,
    digest         TEXT NOT NULL,
    envelope       BLOB NOT NULL
);
CREATE INDEX log_by_release ON log_entries (release_id, predicate_type, idx);
CREATE TABLE log_hashes (idx BIGINT PRIMARY KEY, hash BLOB NOT NULL);

CREATE TABLE dataset_versions (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    service   TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    key       TEXT NOT NULL,
    after     TEXT NOT NULL,
    version   TEXT NOT NULL,
    UNIQUE (service, tenant_id, after)
);
CREATE INDEX dataset_by_key ON dataset_versions (service, tenant_id, key);
CREATE TABLE samples (
    service   TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    id        TEXT NOT NULL,
    sample    TEXT NOT NULL,
    PRIMARY KEY (service, tenant_id, id)
);
CREATE TABLE strategies (
    service   TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    number    BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    strategy  TEXT NOT NULL,
    PRIMARY KEY (service, tenant_id, number)
);

-- What the HTTP contract hands out by id: replay jobs, assessments, pipeline
-- executions.
CREATE TABLE documents (
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    release_id TEXT NOT NULL,
    tenant_id  TEXT NOT NULL,
    at         BIGINT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX documents_by_release ON documents (kind, release_id, at);

CREATE TABLE credentials (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    credential TEXT NOT NULL
);
