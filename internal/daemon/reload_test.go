package daemon

import (
	"reflect"
	"slices"
	"testing"

	"github.com/ostiary/ostiary"
)

func TestChangedKeys(t *testing.T) {
	const before = good + "servers:\n  a: {command: [/bin/server]}\n  b: {url: 'https://b/'}\n"
	for _, tc := range []struct {
		name, after string
		changed     []string
		refused     string // the key that needs a restart
	}{
		{"nothing", before, nil, ""},
		{"a default written out", before + "tools: {recheck: 60s}\nidentity: {return_within: 72h}\n", nil, ""},
		{"servers added, changed and removed", good + "servers:\n  a: {command: [/bin/server], env: {K: v}}\n  c: {url: 'https://c/'}\n", []string{"servers.a", "servers.b", "servers.c"}, ""},
		{"what may change", before + "tools: {recheck: 5s}\nidentity: {token_life: 1m, return_within: 0s}\nlisten: {origins: ['https://a']}\n",
			[]string{"identity.return_within", "identity.token_life", "listen.origins", "tools.recheck"}, ""},
		{"an address", before + "listen: {agents: '127.0.0.1:1', origins: ['https://a']}\n", []string{"listen.agents", "listen.origins"}, "listen.agents"},
		{"the trust domain", "trust_domain: example.com\nservers:\n  a: {command: [/bin/server]}\n  b: {url: 'https://b/'}\n", []string{"trust_domain"}, "trust_domain"},
		{"the data folder moves its socket too", before + "data: other\n", []string{"data", "listen.control"}, "data"},
		{"the gateway's name", before + "gateway: gw2\n", []string{"gateway"}, "gateway"},
		{"the log's time", before + "ledger: {max_action_time: 1m}\n", []string{"ledger.max_action_time"}, "ledger.max_action_time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, err := ParseConfig("/etc/o.yaml", []byte(before))
			if err != nil {
				t.Fatal(err)
			}
			next, err := ParseConfig("/etc/o.yaml", []byte(tc.after))
			if err != nil {
				t.Fatal(err)
			}
			changed := changedKeys(old, next)
			if !slices.Equal(changed, tc.changed) {
				t.Errorf("changed %q, want %q", changed, tc.changed)
			}
			switch err := next.onlyChangeable(changed); {
			case tc.refused == "" && err != nil:
				t.Error(err)
			case tc.refused != "" && (err == nil || ostiary.AsError(err).Field != tc.refused || ostiary.KindOf(err) != ostiary.Conflict):
				t.Errorf("%v, want a refusal of %s", err, tc.refused)
			}
		})
	}
}

// Every key of the file is compared: one that nobody compares would change
// without anybody saying so.
func TestEveryKeyIsCompared(t *testing.T) {
	var walk func(prefix string, at reflect.Value, whole, other *Config)
	n := 0
	walk = func(prefix string, at reflect.Value, whole, other *Config) {
		for f := range at.Type().Fields() {
			key := f.Tag.Get("yaml")
			if key == "" {
				continue
			}
			v := at.FieldByIndex(f.Index)
			if v.Kind() == reflect.Struct {
				walk(prefix+key+".", v, whole, other)
				continue
			}
			kept := reflect.ValueOf(v.Interface())
			switch v.Kind() {
			case reflect.Map:
				v.Set(reflect.MakeMap(v.Type()))
				v.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(v.Type().Elem()))
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			case reflect.Pointer:
				v.Set(reflect.New(v.Type().Elem()))
			case reflect.String:
				v.SetString("other")
			case reflect.Bool:
				v.SetBool(!v.Bool())
			default:
				v.SetInt(v.Int() + 1)
			}
			if changed := changedKeys(other, whole); len(changed) != 1 {
				t.Errorf("%s%s changed, and %q is said to have", prefix, key, changed)
			}
			v.Set(kept)
			n++
		}
	}
	a, _ := ParseConfig("/etc/o.yaml", []byte(good))
	b, _ := ParseConfig("/etc/o.yaml", []byte(good))
	walk("", reflect.ValueOf(a).Elem(), a, b)
	if n < 15 {
		t.Errorf("only %d keys were found", n)
	}
}
