ALTER TABLE agent_session ADD COLUMN root TEXT NOT NULL DEFAULT '';
UPDATE agent_session SET root = COALESCE((
  WITH RECURSIVE above (id, parent) AS (
    SELECT m.id, m.parent FROM mandate m WHERE m.id = agent_session.mandate
    UNION SELECT m.id, m.parent FROM mandate m JOIN above ON m.id = above.parent
  ) SELECT id FROM above WHERE parent = ''), mandate);
CREATE INDEX agent_session_root ON agent_session (root);
