CREATE TABLE hold (
  id TEXT NOT NULL PRIMARY KEY,
  gateway TEXT NOT NULL,
  agent TEXT NOT NULL,
  principal TEXT NOT NULL,
  session TEXT NOT NULL,
  action TEXT NOT NULL,
  state TEXT NOT NULL,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  until BIGINT NOT NULL,
  intent TEXT NOT NULL,
  body BLOB NOT NULL,
  votes BLOB,
  result BLOB,
  rev BIGINT NOT NULL
);
CREATE INDEX hold_state ON hold (state, created, id);
CREATE INDEX hold_agent ON hold (agent, state);
CREATE INDEX hold_expires ON hold (state, expires);
CREATE INDEX hold_rev ON hold (gateway, rev);
CREATE INDEX hold_created ON hold (created, id);
