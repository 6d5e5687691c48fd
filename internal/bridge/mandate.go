package bridge

import (
	"bytes"
	"context"
	"net/http"

	"github.com/ostiary/ostiary/internal/mcpwire"
)

// under names the mandate on each request.
type under struct {
	next    http.RoundTripper
	mandate string
}

func (u under) RoundTrip(r *http.Request) (*http.Response, error) {
	named := *r // not a clone: the body is the same, and nothing else of it is changed
	named.Header = r.Header.Clone()
	named.Header.Set(mcpwire.HeaderMandate, u.mandate)
	return u.next.RoundTrip(&named)
}

// CloseIdleConnections does what a client asks of its transport.
func (u under) CloseIdleConnections() {
	if c, ok := u.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Ask posts a JSON body to one of the gateway's identity endpoints as the
// agent, and returns its JSON answer.
func (b *Bridge) Ask(ctx context.Context, path string, body []byte) ([]byte, error) {
	client, err := b.client(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.gateway+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mcpwire.ContentTypeJSON)
	status, answer, err := do(client, req)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, failed(status, answer)
	}
	return answer, nil
}
