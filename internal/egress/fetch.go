package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
)

const (
	// fetchTimeout bounds reading one document, from the name to the last
	// byte: it is small, and somebody waits.
	fetchTimeout = 10 * time.Second
	// fetchConns bounds the connections to one host: strangers choose it.
	fetchConns = 4
)

// Fetcher reads small documents at https addresses that strangers choose: the
// metadata of a client, an issuer's keys. It reaches public addresses and the
// exceptions an operator made, follows nothing, sends nothing but the request,
// and never holds more than was allowed. Safe for concurrent use.
type Fetcher struct{ client *http.Client }

// NewFetcher returns a fetcher. allow opens private networks, as addresses or
// CIDR prefixes: any stranger can then make the gateway ask there. roots are
// trusted beside the system's; nil adds none.
func NewFetcher(allow []string, roots *x509.CertPool) (*Fetcher, error) {
	p := addresses{never: neverOpened(), public: publicSpace()}
	for _, s := range allow {
		pre, err := parsePrefix(s)
		if err != nil || !slices.ContainsFunc(exceptionSpace(), func(e netip.Prefix) bool { return e.Bits() <= pre.Bits() && e.Contains(pre.Addr()) }) {
			return nil, ostiary.Errorf(ostiary.Malformed, "allow_private", "%q is not loopback or private space, as an address or a CIDR prefix", s).At("allow_addresses")
		}
		p.exceptions = append(p.exceptions, pre)
	}
	t := newTransport(newDialer(p), &tls.Config{RootCAs: roots})
	t.MaxConnsPerHost, t.MaxIdleConns, t.DisableKeepAlives, t.ResponseHeaderTimeout = fetchConns, fetchConns, true, fetchTimeout
	return &Fetcher{&http.Client{
		Transport: t, Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Fetch reads the document at an https address, whole, or nothing of it.
func (f *Fetcher) Fetch(ctx context.Context, address string, most int64) (body []byte, mediaType string, err error) {
	fail := func(why string, cause error) ([]byte, string, error) {
		return nil, "", ostiary.Errorf(ostiary.Upstream, "fetch", "%s", why).Because(cause)
	}
	u, err := ParseURL(address)
	if err != nil {
		return nil, "", err
	}
	if u.Scheme != "https" {
		return nil, "", ostiary.Errorf(ostiary.Malformed, "url", "only https addresses are read").At("url")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail("the address cannot be asked", err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "ostiary")
	resp, err := f.client.Do(r)
	if err != nil {
		return fail("the document could not be read", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Encoding") != "" || resp.ContentLength > most {
		return fail("the answer is no document, or too long", nil)
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, most+1)); err != nil || int64(len(body)) > most {
		return fail("the answer did not arrive whole, or is too long", err)
	}
	return body, resp.Header.Get("Content-Type"), nil
}
