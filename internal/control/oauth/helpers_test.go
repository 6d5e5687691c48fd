package oauth

import (
	"bytes"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

func parsed(t testing.TB, b []byte) ostiary.Value {
	t.Helper()
	doc, err := strictjson.Parse(bytes.Clone(b), strictjson.Reply)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return doc.Root()
}
