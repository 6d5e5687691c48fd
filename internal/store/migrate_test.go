package store_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/ostiary/ostiary/internal/store"
)

// TestSessionsBecomeKin: the sessions of a state that knew no kin belong,
// after its schema has moved, to the first mandate of their chain.
func TestSessionsBecomeKin(t *testing.T) {
	engines := map[string]struct{ driver, address string }{
		"SQLite":     {"sqlite", filepath.Join(t.TempDir(), "x.db")},
		"PostgreSQL": {"pgx", database(t, cluster(t))},
	}
	for name, e := range engines {
		t.Run(name, func(t *testing.T) {
			db, err := sql.Open(e.driver, e.address)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := store.MigrateTo(t.Context(), db, e.driver == "pgx", 3); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(`
				INSERT INTO mandate (id, agent, jws, expires, parent) VALUES ('m', 'a', '', 0, ''), ('m1', 'b', '', 0, 'm'), ('m2', 'c', '', 0, 'm1'), ('n', 'c', '', 0, ''), ('round', 'd', '', 0, 'round');
				INSERT INTO agent_session (id, agent, principal, mandate, started) VALUES
				('1', 'a', 'p', 'm', 0), ('2', 'b', 'p', 'm1', 0), ('3', 'c', 'p', 'm2', 0), ('4', 'c', 'p', 'n', 0), ('5', 'x', 'p', 'gateway', 0), ('6', 'd', 'p', 'round', 0)`); err != nil {
				t.Fatal(err)
			}
			if err := store.MigrateTo(t.Context(), db, e.driver == "pgx", 4); err != nil {
				t.Fatal(err)
			}
			for id, want := range map[string]string{"1": "m", "2": "m", "3": "m", "4": "n", "5": "gateway", "6": "round"} {
				var root string
				if err := db.QueryRow("SELECT root FROM agent_session WHERE id = '" + id + "'").Scan(&root); err != nil || root != want {
					t.Errorf("session %s has root %q, want %q: %v", id, root, want, err)
				}
			}
		})
	}
}
