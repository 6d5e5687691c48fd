package store_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/store/pgtest"
	"github.com/ostiary/ostiary/internal/store/storetest"
)

// shared is the cluster of all tests that need none of their own. TestMain
// stops it.
var shared = sync.OnceValues(func() (*pgtest.Cluster, error) {
	started = true
	return pgtest.Start()
})

var started bool // whether shared was ever asked for

// cluster returns the shared server. One that is missing fails the test.
func cluster(t testing.TB) *pgtest.Cluster {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func database(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	address, err := c.NewDatabase()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func openServer(t testing.TB, address string) *store.SQL {
	t.Helper()
	s, err := store.OpenPostgres(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestPostgres(t *testing.T) {
	addresses := map[store.Store]string{}
	storetest.Run(t, storetest.Engine{
		Open: func(t *testing.T) store.Store {
			address := database(t, cluster(t))
			s := openServer(t, address)
			addresses[s] = address
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openServer(t, addresses[s])
		},
		Fail: store.FailNext,
	})
}

// name is the database of an address.
func name(address string) string {
	u, _ := url.Parse(address)
	return path.Base(u.Path)
}

// TestPostgresShared: two processes' worth of writers on one database. Each
// token is spent once, revisions have no gap, and both read what either wrote.
func TestPostgresShared(t *testing.T) {
	ctx := t.Context()
	address := database(t, cluster(t))
	var both [2]*store.SQL
	var wg sync.WaitGroup
	for i := range both { // both find an empty database, and one moves its schema
		wg.Go(func() { both[i], _ = store.OpenPostgres(ctx, address) })
	}
	wg.Wait()
	for i, s := range both {
		if s == nil {
			t.Fatalf("process %d found no store", i)
		}
		t.Cleanup(func() { s.Close() })
	}
	const tokens = 20
	day := time.Now()
	for i := range tokens {
		if err := both[i%2].CreateJoinToken(ctx, storetest.Token(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	won := map[string]int{}
	for i := range tokens * 8 {
		wg.Go(func() {
			tok := storetest.Token(fmt.Sprint(i % tokens))
			a, err := both[i/tokens%2].RedeemJoinToken(ctx, tok.Hash, tok.Created, storetest.Enrolment(fmt.Sprint("m", i)))
			if err == nil {
				mu.Lock()
				won[string(a.ID)]++
				mu.Unlock()
			} else if code(err) != "join_token_spent" {
				t.Error(err)
			}
			if _, err := both[i%2].Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: fmt.Sprint(i), At: day}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != tokens {
		t.Errorf("%d of %d tokens were spent", len(won), tokens)
	}
	for id, n := range won {
		if n != 1 {
			t.Errorf("the token of %s was spent %d times", id, n)
		}
	}
	for i, s := range both {
		rev, err := s.Revision(ctx)
		if err != nil || rev != tokens*2+tokens*8 {
			t.Errorf("process %d: revision %d, %v", i, rev, err)
		}
		all, err := s.Changes(ctx, 0)
		for n, c := range all {
			if c.Rev != uint64(n+1) {
				t.Fatalf("process %d: revision %d after %d", i, c.Rev, n)
			}
		}
		if err != nil || len(all) != int(rev) {
			t.Errorf("process %d: %d changes, %v", i, len(all), err)
		}
	}
}

// TestPostgresEnds: the server ends the writer's connection, or itself, at
// any moment. What was acknowledged is there, no revision is missing, and
// writing goes on by itself.
func TestPostgresEnds(t *testing.T) {
	c, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	ctx := t.Context()
	address := database(t, c)
	s := openServer(t, address)
	var acked uint64
	revoke := func() error {
		epoch, err := s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: "x", At: time.Now()})
		if err == nil {
			acked = max(acked, epoch)
		}
		return err
	}
	check := func() {
		t.Helper()
		epoch, all, err := s.Revocations(ctx, 0)
		rev, err2 := s.Revision(ctx)
		if err != nil || err2 != nil || epoch < acked || uint64(len(all)) != epoch || rev != epoch {
			t.Fatalf("acknowledged %d; found epoch %d, %d revocations, revision %d, %v %v", acked, epoch, len(all), rev, err, err2)
		}
	}
	t.Run("connections", func(t *testing.T) {
		stop := make(chan struct{})
		var killer sync.WaitGroup
		killer.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Exec(name(address), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
				}
			}
		})
		failed := 0
		for range 200 {
			if revoke() != nil {
				failed++
			}
		}
		close(stop)
		killer.Wait()
		if err := revoke(); err != nil {
			t.Fatal("writing does not go on by itself:", err)
		}
		t.Logf("%d of 200 writes failed, %d acknowledged", failed, acked)
		check()
	})
	t.Run("server", func(t *testing.T) {
		c.Kill()
		if err := revoke(); code(err) != "not_stored" {
			t.Fatal(err)
		}
		if _, err := s.Revision(ctx); err == nil {
			t.Fatal("a revision without a server")
		}
		if err := c.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := revoke(); err != nil {
			t.Fatal(err)
		}
		check()
	})
}

// TestPostgresNotice: a wait for the standby that is cancelled is reported as
// a commit with a warning. It is not known then, until the server is asked
// again and the answer is as durable as a write.
func TestPostgresNotice(t *testing.T) {
	c, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	ctx := t.Context()
	address := database(t, c)
	s := openServer(t, address)
	standby := func(t *testing.T, name string) {
		t.Helper()
		if err := c.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'"); err != nil {
			t.Fatal(err)
		}
		if err := c.Exec("postgres", "SELECT pg_reload_conf()"); err != nil {
			t.Fatal(err)
		}
	}
	written := uint64(0)
	write := func() chan error {
		written++
		serial := fmt.Sprint("x", written)
		done := make(chan error, 1)
		go func() {
			_, err := s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: serial, At: time.Now()})
			done <- err
		}()
		return done
	}
	// The server's own processes take a new setting when they come to it: a
	// wait is known to begin only when one is seen.
	cancelled := map[string]bool{}
	deadline := time.Now().Add(time.Minute)
	cancel := func(t *testing.T, done chan error) (ended bool) { // the next wait for the standby
		t.Helper()
		for time.Now().Before(deadline) {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal("not waiting for the standby:", err)
				}
				return true
			default:
			}
			pids, err := c.Ask("postgres", "SELECT pid || ' ' || xact_start, pg_sleep(0.02) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range pids {
				if !cancelled[p] {
					cancelled[p] = true
					pid, _, _ := strings.Cut(p, " ")
					if err := c.Exec("postgres", "SELECT pg_cancel_backend("+pid+")"); err != nil {
						t.Fatal(err)
					}
					return false
				}
			}
		}
		t.Fatal("nothing waits for the standby")
		return false
	}
	waiting := func(t *testing.T) chan error { // a write whose first wait was cancelled
		t.Helper()
		for {
			done := write()
			if !cancel(t, done) {
				return done
			}
		}
	}
	if err := <-write(); err != nil {
		t.Fatal(err)
	}
	t.Run("asked again and found", func(t *testing.T) {
		standby(t, "ghost")
		done := waiting(t)
		standby(t, "")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("asked again and not answered", func(t *testing.T) {
		standby(t, "ghost")
		done := waiting(t)
		if cancel(t, done) {
			t.Fatal("asked again, it did not wait")
		}
		if err := <-done; code(err) != "not_known" {
			t.Fatal(err)
		}
		standby(t, "")
	})
	if epoch, _, err := s.Revocations(ctx, 0); err != nil || epoch != written {
		t.Fatal(epoch, written, err)
	}
}

// TestPostgresRefused: a server on which an acknowledged write could be lost.
func TestPostgresRefused(t *testing.T) {
	refused := func(t *testing.T, address, want, word string) {
		t.Helper()
		s, err := store.OpenPostgres(t.Context(), address)
		if err == nil {
			s.Close()
		}
		if code(err) != want || !strings.Contains(err.Error(), word) {
			t.Errorf("got %v, want %s about %q", err, want, word)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), "s3cret") {
				t.Errorf("the password is in %q", e)
			}
		}
	}
	for _, setting := range []string{"fsync=off", "full_page_writes=off"} {
		t.Run(setting, func(t *testing.T) {
			c, err := pgtest.Start(setting)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Stop()
			refused(t, database(t, c), "store_engine", setting)
		})
	}
	for _, setting := range []string{"off", "local", "remote_write"} {
		t.Run("synchronous_commit="+setting, func(t *testing.T) {
			c := cluster(t)
			address := database(t, c)
			if err := c.Exec("postgres", "ALTER DATABASE "+name(address)+" SET synchronous_commit = "+setting); err != nil {
				t.Fatal(err)
			}
			refused(t, address, "store_engine", "synchronous_commit="+setting)
		})
	}
	t.Run("encoding", func(t *testing.T) {
		c := cluster(t)
		if err := c.Exec("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"); err != nil {
			t.Fatal(err)
		}
		refused(t, c.Address("latin"), "store_engine", "LATIN1")
	})
	t.Run("newer schema", func(t *testing.T) {
		c := cluster(t)
		address := database(t, c)
		openServer(t, address).Close()
		if err := c.Exec(name(address), "INSERT INTO schema_version (version) VALUES (1000)"); err != nil {
			t.Fatal(err)
		}
		refused(t, address, "schema_newer", "newer")
	})
	t.Run("addresses", func(t *testing.T) {
		refused(t, "postgres://o:s3cret@db.example/o", "store_tls", "verify-full")
		refused(t, "postgres://o:s3cret@db.example/o?sslmode=require", "store_tls", "verify-full")
		refused(t, "postgres://o:s3cret@localhost,db.example/o", "store_tls", "verify-full")
		refused(t, "postgres://o:s3cret@db.example:x/o", "store_address", "address")
		refused(t, "host=db.example password=s3cret sslmode=wrong", "store_address", "address")
		refused(t, "postgres://o:s3cret@127.0.0.1:1/o?sslmode=disable", "store_connect", "reached")
		refused(t, cluster(t).Address("absent")+"&password=s3cret", "store_connect", "reached")
	})
}

// TestPostgresKilled kills a process in the middle of its writes: the next
// one finds what it acknowledged, and is not kept waiting by it.
func TestPostgresKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	address := database(t, cluster(t))
	var highest uint64
	for round := range 3 {
		cmd := exec.Command(self, "-test.run=^$")
		cmd.Env = append(os.Environ(), "OSTIARY_STORE_VICTIM="+address)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			epoch, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			highest = max(highest, epoch)
			if n == 40+17*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		s := openServer(t, address)
		if epoch, err := s.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeSerial, Subject: "y"}); err != nil || highest == 0 || epoch <= highest {
			t.Fatalf("acknowledged up to %d, then epoch %d: %v", highest, epoch, err)
		} else {
			highest = epoch
		}
		epoch, all, err := s.Revocations(t.Context(), 0)
		rev, err2 := s.Revision(t.Context())
		if err != nil || err2 != nil || uint64(len(all)) != epoch || rev != epoch || epoch != highest {
			t.Fatalf("highest %d; found epoch %d, %d revocations, revision %d, %v %v", highest, epoch, len(all), rev, err, err2)
		}
		s.Close()
	}
}

// TestPostgresTakesOnce: of a thousand callers on two processes' stores one
// takes a record, round after round.
func TestPostgresTakesOnce(t *testing.T) {
	ctx := t.Context()
	address := database(t, cluster(t))
	both := [2]*store.SQL{openServer(t, address), openServer(t, address)}
	day := time.Now()
	for round := range 3 {
		r := record.Record{Kind: "code", ID: fmt.Sprint(round), Data: []byte("x"), Expires: day.Add(time.Minute)}
		if _, err := both[round%2].CreateRecord(ctx, r, day); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var won atomic.Int64
		for i := range 1000 {
			wg.Go(func() {
				_, err := both[i%2].TakeRecord(ctx, r.Kind, r.ID, day)
				if err == nil {
					won.Add(1)
				} else if code(err) != "absent" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d took it", round, won.Load())
		}
	}
}

// TestPostgresSpendsOnce: of a thousand uses of one consent on two processes'
// stores one is the first: I03.
func TestPostgresSpendsOnce(t *testing.T) {
	ctx := t.Context()
	address := database(t, cluster(t))
	both := [2]*store.SQL{openServer(t, address), openServer(t, address)}
	at := time.Now()
	r := approval.Row{ID: "h", Gateway: "gw", Agent: "spiffe://a.example/pay", State: ostiary.HoldGranted, Created: at, Expires: at.Add(time.Hour), Until: at.Add(time.Hour), Body: []byte("x")}
	var err error
	if r.Revision, err = both[0].CreateHold(ctx, r, 1, at); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 1000 {
		wg.Go(func() {
			r := r
			r.State, r.Intent = ostiary.HoldSpent, ostiary.EntryID{1, byte(i), byte(i >> 8)}
			_, err := both[i%2].ReplaceHold(ctx, r)
			if err == nil {
				won.Add(1)
			} else if code(err) != "record_moved" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d spent it", won.Load())
	}
}

// TestPostgresLastUnit: of a thousand calls on two gateways that share a
// database, one gets the last unit of a budget, and the first unit of one that
// was never charged.
func TestPostgresLastUnit(t *testing.T) {
	ctx := t.Context()
	address := database(t, cluster(t))
	both := [2]*store.SQL{openServer(t, address), openServer(t, address)}
	start := time.Now().UTC().Truncate(24 * time.Hour)
	for _, limit := range []int64{1, 5} {
		c := budget.Charge{Account: budget.Account{Budget: fmt.Sprint("b", limit), Unit: "calls"}, Window: start, Ends: start.AddDate(0, 0, 1), Limit: limit, Least: 1, Most: 1}
		spend := func(i int) error {
			r := budget.Record{Gateway: fmt.Sprint("gw", i%2), Made: start}
			rand.Read(r.ID[:])
			_, err := both[i%2].ReserveBudget(ctx, r, []budget.Charge{c})
			if err == nil && i%3 == 0 { // some have ended already
				err = both[(i+1)%2].SettleBudget(ctx, r.ID, budget.Use{Units: map[string]int64{"calls": 1}})
			}
			return err
		}
		for i := range int(limit) - 1 {
			if err := spend(i); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		var won atomic.Int64
		for i := range 1000 {
			wg.Go(func() {
				if err := spend(i); err == nil {
					won.Add(1)
				} else if code(err) != "budget_exhausted" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("of %d: %d got the last", limit, won.Load())
		}
	}
}
