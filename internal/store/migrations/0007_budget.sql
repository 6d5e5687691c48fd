CREATE TABLE budget_account (
  budget TEXT NOT NULL,
  holder TEXT NOT NULL,
  unit TEXT NOT NULL,
  began BIGINT NOT NULL,
  ends BIGINT NOT NULL,
  bound BIGINT NOT NULL,
  spent BIGINT NOT NULL,
  held BIGINT NOT NULL,
  PRIMARY KEY (budget, holder, unit)
);
CREATE TABLE budget_hold (
  id TEXT PRIMARY KEY,
  gateway TEXT NOT NULL,
  agent TEXT NOT NULL,
  mandate TEXT NOT NULL,
  action TEXT NOT NULL,
  made BIGINT NOT NULL,
  in_doubt BIGINT NOT NULL,
  parts TEXT NOT NULL
);
