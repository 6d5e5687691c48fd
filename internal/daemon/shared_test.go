package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/store"
)

// Only what changed is read again, and everything if in doubt.
func TestTouched(t *testing.T) {
	changes := func(from uint64, kinds ...string) (all []store.Change) {
		for i, k := range kinds {
			all = append(all, store.Change{Rev: from + uint64(i), Kind: k, Key: k})
		}
		return all
	}
	for name, tc := range map[string]struct {
		changes []store.Change
		want    parts
		rev     uint64
	}{
		"nothing":     {nil, parts{}, 7},
		"sessions":    {changes(8, "session", "taint", "data_key", "log", "fence"), parts{}, 12},
		"enrolment":   {changes(8, "agent"), parts{registry: true}, 8},
		"revocation":  {changes(8, "taint", "revocation"), parts{revoked: true}, 9},
		"an end":      {changes(8, "mandate_end", "mandate_review"), parts{revoked: true, ended: []ostiary.MandateID{"mandate_end"}}, 9},
		"a mandate":   {changes(8, "mandate"), parts{registry: true}, 8},
		"acceptance":  {changes(8, "pins", "snapshot"), parts{pins: true, policy: true}, 9},
		"withdrawal":  {changes(8, "pin_drop"), parts{pins: true}, 8},
		"a record":    {[]store.Change{{Rev: 8, Kind: "record", Key: "oauth_code x"}}, parts{}, 8},
		"an entity":   {[]store.Change{{Rev: 8, Kind: "record", Key: "entity"}}, parts{entities: true}, 8},
		"a new kind":  {changes(8, "taint", "unheard", "taint"), everything, 10},
		"a gap":       {changes(9, "taint"), everything, 9},
		"going back":  {changes(7, "taint"), everything, 7},
		"a gap later": {append(changes(8, "taint"), changes(10, "taint", "taint")...), everything, 11},
	} {
		t.Run(name, func(t *testing.T) {
			if got, rev := touched(7, tc.changes); !reflect.DeepEqual(got, tc.want) || rev != tc.rev {
				t.Errorf("%+v up to %d, want %+v up to %d", got, rev, tc.want, tc.rev)
			}
		})
	}
}

// An address with its password comes from a file that only its owner reads,
// and is in no error.
func TestAddressFile(t *testing.T) {
	const good = "postgres://ostiary:s3cret@127.0.0.1/ostiary"
	for name, tc := range map[string]struct {
		text string
		mode os.FileMode
		want string // of the error, "" for none
	}{
		"good":           {good + "\n", 0o600, ""},
		"read by others": {good, 0o640, "chmod 600"},
		"two lines":      {good + "\n" + good, 0o600, "one line"},
		"no address":     {"s3cret", 0o600, "postgres://"},
		"long":           {strings.Repeat(good, 1000), 0o600, "one line"},
		"empty":          {"", 0o600, "postgres://"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "address")
			if err := os.WriteFile(path, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
			c, err := ParseConfig(filepath.Join(filepath.Dir(path), "c.yaml"), []byte("trust_domain: example.org\nstore: {postgres_file: address}\n"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.address()
			if tc.want == "" && (err != nil || got != good) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
	c := &Config{Store: StoreConfig{PostgresFile: filepath.Join(t.TempDir(), "absent")}}
	if _, err := c.address(); err == nil {
		t.Error("a file that is not there has an address")
	}
}

// Keys lie in the data folder unless gateways share them.
func TestKeysFolder(t *testing.T) {
	alone, together := &Config{Data: "/d"}, &Config{Data: "/d", Keys: "/k"}
	if alone.keysDir() != "/d/keys" || alone.identityDir() != "/d/identity" || together.keysDir() != "/k" || together.identityDir() != "/k/identity" {
		t.Errorf("%s %s %s %s", alone.keysDir(), alone.identityDir(), together.keysDir(), together.identityDir())
	}
}
