CREATE TABLE record (
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  data BLOB NOT NULL,
  expires BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  PRIMARY KEY (kind, id)
);
CREATE INDEX record_expires ON record (expires);
