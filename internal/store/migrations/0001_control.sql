CREATE TABLE head (
  id BIGINT PRIMARY KEY,
  rev BIGINT NOT NULL,
  epoch BIGINT NOT NULL
);
INSERT INTO head (id, rev, epoch) VALUES (1, 0, 0);

CREATE TABLE change (
  rev BIGINT PRIMARY KEY,
  epoch BIGINT NOT NULL,
  request_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  item TEXT NOT NULL,
  body TEXT NOT NULL
);

CREATE TABLE join_token (
  hash TEXT PRIMARY KEY,
  agent TEXT NOT NULL,
  principal TEXT NOT NULL,
  owner TEXT NOT NULL,
  zone TEXT NOT NULL,
  roles TEXT NOT NULL,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  redeemed BIGINT
);

CREATE TABLE agent (
  id TEXT PRIMARY KEY,
  principal TEXT NOT NULL,
  owner TEXT NOT NULL,
  zone TEXT NOT NULL,
  roles TEXT NOT NULL,
  mandate TEXT NOT NULL,
  enrolled BIGINT NOT NULL,
  method TEXT NOT NULL,
  disabled BIGINT NOT NULL
);

CREATE TABLE mandate (
  id TEXT PRIMARY KEY,
  agent TEXT NOT NULL,
  jws TEXT NOT NULL,
  expires BIGINT NOT NULL
);

CREATE TABLE revocation (
  epoch BIGINT PRIMARY KEY,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  revoked BIGINT NOT NULL,
  reason TEXT NOT NULL
);

CREATE TABLE pin (
  server TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  pin TEXT NOT NULL,
  definition BLOB NOT NULL,
  accepted BIGINT NOT NULL,
  author TEXT NOT NULL,
  PRIMARY KEY (server, kind, name)
);

CREATE TABLE snapshot (
  number BIGINT PRIMARY KEY,
  signed BLOB NOT NULL
);

CREATE TABLE agent_session (
  id TEXT PRIMARY KEY,
  agent TEXT NOT NULL,
  principal TEXT NOT NULL,
  mandate TEXT NOT NULL,
  started BIGINT NOT NULL,
  UNIQUE (agent, principal, mandate)
);

CREATE TABLE taint (
  session_id TEXT NOT NULL REFERENCES agent_session (id),
  source TEXT NOT NULL,
  PRIMARY KEY (session_id, source)
);

CREATE TABLE ledger_log (
  origin TEXT PRIMARY KEY,
  verifier TEXT NOT NULL,
  opened BIGINT NOT NULL,
  place BIGINT NOT NULL,
  writer_epoch BIGINT NOT NULL,
  size BIGINT NOT NULL,
  root TEXT NOT NULL
);

CREATE TABLE data_key (
  name TEXT PRIMARY KEY,
  wrapped BLOB NOT NULL
);

CREATE TABLE containment (
  scope TEXT NOT NULL,
  name TEXT NOT NULL,
  level BIGINT NOT NULL,
  reason TEXT NOT NULL,
  author TEXT NOT NULL,
  decided BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  PRIMARY KEY (scope, name)
);
