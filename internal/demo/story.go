package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	stepTime   = 20 * time.Second       // for one scene; the whole story fits a minute with room to spare
	entryTime  = 10 * time.Second       // for the log's index to show an entry that is already on disk
	entryEvery = 25 * time.Millisecond  // how often the index is asked meanwhile
	maxReply   = 1 << 20                // bytes of one reply to a raw request
	nameEntry  = "dev.ostiary/entry"    // member of a refusal's _meta: the entry that records it
	nameCode   = "dev.ostiary/code"     // why, for programs
	nameField  = "dev.ostiary/field"    // what in the call it is about
	nameWhy    = "dev.ostiary/reasons"  // the rules that decided
	nameRemedy = "dev.ostiary/remedies" // what would change the answer
)

// Verified is what an offline verification found when it found no fault.
type Verified struct {
	Log     string // origin
	Entries uint64
}

// Story is the scripted agent and what it needs of its surroundings. Every
// field without "may be" in its comment is required.
type Story struct {
	// Endpoint is the gateway's aggregated MCP endpoint.
	Endpoint string
	// Agent sends requests with the agent's credentials.
	Agent *http.Client
	// Derive asks the gateway, as the agent, for a part of its mandate for the
	// helper, in the words of a mandate's terms, and returns its name.
	Derive func(ctx context.Context, terms string) (mandate string, err error)
	// Helper returns a client that sends requests with the helper's
	// credentials, under a mandate of its own.
	Helper func(mandate string) *http.Client
	// AgentName is the agent as the log's filter knows it.
	AgentName string

	// Plain sends requests without credentials, for the call that goes
	// around the gateway.
	Plain *http.Client
	// Tools is the URL of the HTTP tool server, without a path.
	Tools string
	// Journals are the files the tool servers write what reached them to.
	Journals []string
	// Trigger is the file that changes read_message while it exists.
	Trigger string

	// Ask asks the gateway's administrative API, as package control has it,
	// and decodes the answer into out.
	Ask func(ctx context.Context, method, path string, query url.Values, in, out any) error
	// Log is the folder of the gateway's own log. It is copied, never written.
	Log string
	// Verify verifies a copied log folder offline. A fault in it is a
	// *proof.Fault.
	Verify func(ctx context.Context, folder string) (Verified, error)

	// Out is where the story is told.
	Out io.Writer
	// Colour says that Out is a terminal that shows it.
	Colour bool
}

// What the story reads of the administrative API's answers; package control
// has the whole forms.
type (
	entry struct {
		Ref         string   `json:"entry"`
		ID          string   `json:"id"`
		Kind        string   `json:"kind"`
		Policies    []string `json:"policies"`
		Disposition string   `json:"disposition"`
		Answers     string   `json:"answers"`
		Snapshot    uint64   `json:"snapshot"`
	}
	listing struct {
		Entries []entry `json:"entries"`
	}
	definition struct {
		Kind  string `json:"kind"`
		Name  string `json:"name"`
		State string `json:"state"`
	}
)

// Run plays the scenes in order and returns an error that names every one
// that did not come out as told. A scene that fails does not stop the next.
// The Trigger file is gone when Run returns.
func (s *Story) Run(ctx context.Context) error {
	p := &printer{out: s.Out, colour: s.Colour}
	p.opening()
	a, err := s.enter(ctx, s.Agent)
	if err != nil {
		return fmt.Errorf("the agent could not connect: %w", err)
	}
	defer a.session.Close()

	var failed []error
	for i, sc := range scenes() {
		p.scene(i+1, sc.title)
		began := time.Now()
		err := s.play(ctx, a, p, sc)
		p.ended(time.Since(began), err)
		if err != nil {
			failed = append(failed, fmt.Errorf("step %d, %s: %w", i+1, sc.title, err))
		}
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
	}
	p.closing(len(scenes()), len(failed), p.err)
	return errors.Join(append(failed, p.err)...)
}

func (s *Story) play(ctx context.Context, a *agent, p *printer, sc scene) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return sc.play(s, ctx, a, p)
}

// enter connects an agent as any MCP client does.
func (s *Story) enter(ctx context.Context, as *http.Client) (*agent, error) {
	c := mcp.NewClient(&mcp.Implementation{Name: "ostiary-demo-agent", Title: "The demo's agent", Version: "1"},
		&mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}})
	session, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.Endpoint, HTTPClient: as, MaxRetries: -1}, nil)
	if err != nil {
		return nil, err
	}
	return &agent{session, s}, nil
}

// find waits for the entry of an action that began at or after since: its
// Intent if it was let through, the lone Outcome if it was refused.
func (s *Story) find(ctx context.Context, action string, since time.Time, kind string) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, entryTime)
	defer cancel()
	q := url.Values{"agent": {s.AgentName}, "action": {action}, "kind": {kind}, "newest": {"true"}, "limit": {"10"},
		"since": {since.UTC().Format(time.RFC3339Nano)}}
	tick := time.NewTicker(entryEvery)
	defer tick.Stop()
	for {
		var page listing
		if err := s.Ask(ctx, http.MethodGet, "/v1/log", q, nil, &page); err != nil {
			return entry{}, err
		}
		for _, e := range page.Entries {
			if e.Kind == "intent" || e.Answers == "" {
				return e, nil
			}
		}
		select {
		case <-ctx.Done():
			return entry{}, fmt.Errorf("the log shows no %s of %s", kind, action)
		case <-tick.C:
		}
	}
}

// read returns the log's entry with that number, its payload opened.
func (s *Story) read(ctx context.Context, ref string) (entry, error) {
	var story listing
	if err := s.Ask(ctx, http.MethodGet, "/v1/log/entry", url.Values{"entry": {ref}}, nil, &story); err != nil {
		return entry{}, fmt.Errorf("reading entry %s: %w", ref, err)
	}
	for _, e := range story.Entries {
		if e.Ref == ref {
			return e, nil
		}
	}
	return entry{}, fmt.Errorf("the log's answer about entry %s does not hold it", ref)
}

// events reads all journals.
func (s *Story) events() ([]Event, error) {
	var all []Event
	for _, path := range s.Journals {
		events, err := ReadJournal(path)
		if err != nil {
			return nil, err
		}
		all = append(all, events...)
	}
	return all, nil
}
