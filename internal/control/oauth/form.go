package oauth

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// maxParams bounds the parameters of a request, and maxValue one of them.
const (
	maxParams = 64
	maxValue  = 16 << 10
)

// form is a request's parameters. Each was sent once and is not empty; the
// ones we do not know are there too and mean nothing.
type form map[string]string

// parseForm reads parameters of the form encoding, strictly: one that is sent
// twice could be read in two ways, so it refuses the request. An empty one is
// as good as absent; see OAuth 2.1, section 3.
func parseForm(text string) (form, *refusal) {
	bad := refuse(invalidRequest, "a parameter is repeated, not encoded as it should be, or too long")
	f := form{}
	if text == "" {
		return f, nil
	}
	pairs := strings.Split(text, "&")
	if len(pairs) > maxParams {
		return nil, bad
	}
	seen := map[string]bool{}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, bad
		}
		if value, err = url.QueryUnescape(value); err != nil || seen[name] || name == "" || len(name) > 64 || len(value) > maxValue || !utf8.ValidString(name+value) || strings.ContainsRune(name+value, 0) {
			return nil, bad
		}
		seen[name] = true
		if value != "" {
			f[name] = value
		}
	}
	return f, nil
}

// body reads a POSTed form.
func body(w http.ResponseWriter, r *http.Request) (form, *refusal) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil || media != "application/x-www-form-urlencoded" || r.Header.Get("Content-Encoding") != "":
		return nil, refuse(invalidRequest, "the body must be application/x-www-form-urlencoded")
	case r.URL.RawQuery != "":
		return nil, refuse(invalidRequest, "parameters go into the body")
	case len(r.Header.Values("Origin")) > 1:
		return nil, refuse(invalidRequest, "a header is repeated")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, refuse(invalidRequest, "the body did not arrive whole, or is too long").because(err)
	}
	return parseForm(string(b))
}

// scopes reads the parameter scope; nil if there is none.
func (f form) scopes() ([]string, *refusal) {
	if f["scope"] == "" {
		return nil, nil
	}
	words, err := identity.ParseScope(f["scope"])
	if err != nil {
		return nil, refuse(invalidScope, "a scope is words with one space between them, none twice").because(err)
	}
	return words, nil
}

// DetailsType is the one type of authorization_details: the mandate that is
// asked for, in the words of `ostiary mandate`.
const DetailsType = "ostiary_mandate"

var detailLimits = strictjson.Limits{Bytes: maxValue, Depth: 8, Nodes: 4096, Elements: 512, Literal: 64, Key: 64}

// details reads the parameter authorization_details: a list of one object,
//
//	[{"type": "ostiary_mandate", "terms": {...}}]
//
// with nothing beside these members and nothing unknown in the terms. See RFC
// 9396, section 5. It returns nil if the parameter is absent.
func (f form) details() (*identity.Terms, *refusal) {
	text, ok := f["authorization_details"]
	if !ok {
		return nil, nil
	}
	bad := refuse(invalidDetails, `authorization_details is [{"type":"`+DetailsType+`","terms":{…}}], with nothing unknown in it`)
	doc, err := strictjson.Parse([]byte(text), detailLimits)
	if err != nil {
		return nil, bad.because(err)
	}
	list := doc.Root()
	if list.Kind() != ostiary.Array || list.Len() != 1 {
		return nil, bad
	}
	for _, d := range list.Elements() {
		if d.Kind() != ostiary.Object || d.Len() != 2 || !d.Get("type").Is(DetailsType) || d.Get("terms").Kind() != ostiary.Object {
			return nil, bad
		}
		terms, err := identity.ParseTerms(slices.Clone(d.Get("terms").Bytes()))
		if err != nil {
			return nil, bad.because(err)
		}
		if terms.Principal != "" {
			return nil, bad // who gives is who decides
		}
		return &terms, nil
	}
	return nil, bad
}
