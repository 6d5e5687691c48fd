package bridge

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// maxAnswer bounds what an identity endpoint may answer: a chain and a
	// bundle.
	maxAnswer = 128 << 10
	// askTimeout bounds one request to an identity endpoint.
	askTimeout = 30 * time.Second
	// tick is how often the wall clock is looked at: timers stand still
	// while a machine sleeps.
	tick = 15 * time.Second
)

var answerLimits = strictjson.Limits{Bytes: maxAnswer, Depth: 4, Nodes: 64, Elements: 16, Literal: 32, Key: 64}

// enrol spends the join token for a first SVID and keeps it.
//
// The gateway is proven first: the bundle is taken from whoever answers, and
// believed only if its fingerprint is the one in the join token. The token
// and the signing request go over a second connection, verified against it.
func (b *Bridge) enrol(ctx context.Context, o Options) (*svid, error) {
	if o.Join == "" {
		return nil, ostiary.Errorf(ostiary.Unauthenticated, "no_svid", "%s holds no SVID yet: give a join token once", o.Dir)
	}
	if err := checkGateway(o.Gateway); err != nil {
		return nil, err
	}
	_, print, err := identity.ParseJoinSecret(o.Join)
	if err != nil {
		return nil, err
	}
	if print.IsZero() {
		return nil, ostiary.Errorf(ostiary.Malformed, "join_token", "the join token does not say which gateway it is for: give all of it, with the part after the dot").At("join")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	bundle, id, err := b.firstContact(ctx, o.Gateway, print)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := signingRequest(key)
	if err != nil {
		return nil, err
	}
	client, err := b.dial(o.Gateway, gatewayTLS(bundle, id, b.clock))
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	s, err := ask(ctx, client, o.Gateway, identity.EnrolPath, key, map[string]string{"token": o.Join, "csr": base64.StdEncoding.EncodeToString(csr)})
	if err != nil {
		if ostiary.KindOf(err) == ostiary.Conflict {
			if other := b.beaten(ctx, o.Dir); other != nil {
				return other, nil
			}
		}
		return nil, err
	}
	if err := s.save(o.Dir); err != nil {
		return nil, fmt.Errorf("keeping the SVID: %w", err)
	}
	b.log.Info("enrolled", "agent", string(s.agent), "until", s.leaf().NotAfter)
	return s, nil
}

// beaten waits a moment for the SVID of another process that spent the same
// token first, as when a client starts two bridges at once: what it keeps is
// ours too.
func (b *Bridge) beaten(ctx context.Context, dir string) *svid {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for range 20 {
		if s, err := load(dir); err == nil && !s.ended(b.clock()) {
			return s
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
	return nil
}

// firstContact fetches the trust bundle from a connection that proves
// nothing, and checks it against the fingerprint.
func (b *Bridge) firstContact(ctx context.Context, gateway string, print ostiary.Digest) ([]*x509.Certificate, string, error) {
	client, err := b.dial(gateway, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, Time: b.clock,
		InsecureSkipVerify: true, // nothing is sent, and what comes is checked by its digest
	})
	if err != nil {
		return nil, "", err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+identity.BundlePath, nil)
	if err != nil {
		return nil, "", err
	}
	status, body, err := do(client, req)
	if err != nil {
		return nil, "", err
	}
	if status != http.StatusOK {
		return nil, "", failed(status, body)
	}
	bundle, err := identity.ReadBundle(body)
	if err != nil {
		return nil, "", ostiary.Errorf(ostiary.Upstream, "bundle", "what answers at %s is no gateway", gateway).Because(err)
	}
	bundle, proven := identity.CheckBundle(bundle, print)
	if !proven {
		return nil, "", ostiary.Errorf(ostiary.Denied, "fingerprint", "what answers at %s is not the gateway the join token is for: nothing was sent to it", gateway)
	}
	if len(bundle[0].URIs) != 1 || bundle[0].URIs[0].Scheme != "spiffe" {
		return nil, "", ostiary.Errorf(ostiary.Upstream, "bundle", "the trust bundle names no trust domain")
	}
	return bundle, "spiffe://" + bundle[0].URIs[0].Host + "/ostiary/gateway", nil
}

// renew exchanges the SVID for a new one, by mutual TLS while it is in force
// and by its key when it has ended. Of several callers one does it.
func (b *Bridge) renew(ctx context.Context) error {
	b.renewal.Lock()
	defer b.renewal.Unlock()
	h := b.now.Load()
	if !h.svid.due(b.clock()) {
		return nil
	}
	// Another process with the same directory may have been quicker.
	if kept, err := load(b.dir); err == nil && kept.leaf().NotAfter.After(h.svid.leaf().NotAfter) && !kept.ended(b.clock()) {
		return b.use(kept)
	}
	var next *svid
	var err error
	if h.svid.ended(b.clock()) {
		next, err = b.comeBack(ctx, h.svid)
	} else {
		next, err = b.exchange(ctx, h)
	}
	if err != nil {
		return fmt.Errorf("renewing the SVID: %w", err)
	}
	if err := next.save(b.dir); err != nil {
		b.log.Error("the new SVID could not be kept and is used until the end of this process", "error", err)
	}
	b.log.Debug("renewed", "until", next.leaf().NotAfter)
	return b.use(next)
}

// exchange renews with a new key.
func (b *Bridge) exchange(ctx context.Context, h *held) (*svid, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := signingRequest(key)
	if err != nil {
		return nil, err
	}
	return ask(ctx, h.client, b.gateway, identity.RenewPath, key, map[string]string{"csr": base64.StdEncoding.EncodeToString(csr)})
}

// comeBack renews with the old key: holding it is the proof.
func (b *Bridge) comeBack(ctx context.Context, s *svid) (*svid, error) {
	client, err := b.dial(b.gateway, s.bare(b.clock))
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	csr, err := signingRequest(s.key)
	if err != nil {
		return nil, err
	}
	return ask(ctx, client, b.gateway, identity.ReturnPath, s.key, map[string]string{
		"svid": base64.StdEncoding.EncodeToString(s.leaf().Raw), "csr": base64.StdEncoding.EncodeToString(csr),
	})
}

// ask posts to an identity endpoint and reads the SVID it answers.
func ask(ctx context.Context, client *http.Client, gateway, path string, key *ecdsa.PrivateKey, in map[string]string) (*svid, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	status, answer, err := do(client, req)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, failed(status, answer)
	}
	return readSVID(gateway, key, answer)
}

func readSVID(gateway string, key *ecdsa.PrivateKey, answer []byte) (*svid, error) {
	strange := func(err error) error {
		return ostiary.Errorf(ostiary.Upstream, "svid", "the gateway's answer holds no SVID for us").Because(err)
	}
	doc, err := strictjson.Parse(answer, answerLimits)
	if err != nil {
		return nil, strange(err)
	}
	chain, err := identity.ReadBundle([]byte(doc.Root().Get("chain").Text()))
	if err != nil {
		return nil, strange(err)
	}
	bundle, err := identity.ReadBundle([]byte(doc.Root().Get("bundle").Text()))
	if err != nil {
		return nil, strange(err)
	}
	s, err := newSVID(gateway, key, chain, bundle)
	if err != nil {
		return nil, strange(err)
	}
	return s, nil
}

// do sends a request and reads the whole bounded answer.
func do(client *http.Client, req *http.Request) (int, []byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, ostiary.Errorf(ostiary.Unavailable, "gateway", "the gateway at %s cannot be reached", req.URL.Host).Because(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return 0, nil, ostiary.Errorf(ostiary.Unavailable, "gateway", "the gateway's answer was not complete").Because(err)
	}
	return resp.StatusCode, b, nil
}

// failed words a refusal by an identity endpoint: its own detail, if it has
// one.
func failed(status int, body []byte) error {
	kind := ostiary.Upstream
	switch status {
	case http.StatusUnauthorized:
		kind = ostiary.Unauthenticated
	case http.StatusForbidden:
		kind = ostiary.Denied
	case http.StatusConflict:
		kind = ostiary.Conflict
	case http.StatusTooManyRequests:
		kind = ostiary.Exhausted
	case http.StatusServiceUnavailable:
		kind = ostiary.Unavailable
	}
	doc, err := strictjson.Parse(body, answerLimits)
	if err == nil {
		if e := doc.Root().Get("error"); e.Get("detail").Kind() == ostiary.String {
			return ostiary.Errorf(kind, e.Get("code").Text(), "%s", e.Get("detail").Text())
		}
	}
	return ostiary.Errorf(kind, "gateway", "the gateway answered %s", http.StatusText(status))
}

// keep renews until ctx ends.
func (b *Bridge) keep(ctx context.Context) {
	share := rand.Float64()
	failures := 0
	t := time.NewTimer(tick)
	defer t.Stop()
	for {
		wait := tick
		if s := b.now.Load().svid; !b.clock().Before(s.renewAt(share)) {
			if err := b.renew(ctx); err != nil && ctx.Err() == nil {
				failures++
				b.log.Warn("the SVID was not renewed", "error", err, "until", s.leaf().NotAfter)
				wait = min(tick<<min(failures, 4), 2*time.Minute) // a gateway that is down is not helped by haste
			} else {
				failures, share = 0, rand.Float64()
			}
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
