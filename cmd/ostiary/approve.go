package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/deferred"
)

type approvalsCmd struct {
	ID    string `arg:"" optional:"" help:"Show one held action with everything an approver must know: its id, or the beginning of it."`
	State string `placeholder:"STATES" help:"Those in these states, separated by commas (pending,granted,spent); all for every one that is kept."`
	Agent string `placeholder:"NAME" help:"Those of one agent."`
	Limit int    `placeholder:"N" help:"At most so many, the oldest first (100)."`
}

func (c *approvalsCmd) Run(e *env) error {
	if c.ID != "" {
		h, err := e.oneHeld(c.ID)
		if err != nil {
			return err
		}
		if e.cli.JSON {
			return e.printJSON(h)
		}
		return e.tellHeld(e.stdout, &h)
	}
	q := url.Values{}
	for name, v := range map[string]string{"state": c.State, "agent": c.Agent} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if c.Limit != 0 {
		q.Set("limit", strconv.Itoa(c.Limit))
	}
	var all []control.Held
	if err := e.ask(http.MethodGet, "/v1/approvals", q, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "Nothing waits for people.")
		return nil
	}
	var rows [][]string
	for _, h := range all {
		var needs []string
		for _, n := range h.Needs {
			needs = append(needs, n.Fact)
		}
		rows = append(rows, []string{h.ID[:min(8, len(h.ID))], h.State, when(h.Created), when(h.Expires), ostiary.AgentID(h.Agent).Name(), h.Principal, h.Action, strings.Join(needs, ",")})
	}
	return e.table([]string{"ID", "STATE", "ASKED", "UNTIL", "AGENT", "FOR", "ACTION", "NEEDS"}, rows)
}

func (e *env) oneHeld(id string) (h control.Held, err error) {
	err = e.ask(http.MethodGet, "/v1/approvals/one", url.Values{"id": {id}}, nil, &h)
	return h, err
}

// tellHeld prints a held action: who asks what of whom, exactly, and why it
// needs somebody.
func (e *env) tellHeld(w io.Writer, h *control.Held) error {
	line := func(name, format string, a ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, show(fmt.Sprintf(format, a...)))
	}
	line("held", "%s, %s", h.ID, h.State)
	line("agent", "%s", h.Agent)
	if len(h.Chain) > 1 {
		line("chain", "%s", strings.Join(h.Chain, " > "))
	}
	line("for", "%s, under mandate %s%s", h.Principal, h.Mandate, orNothing(": ", h.Purpose))
	if h.Task != "" {
		line("task", "%s", h.Task)
	}
	line("action", "%s on %s in zone %s", h.Action, h.Server, h.Zone)
	if h.URI != "" {
		line("uri", "%s", h.URI)
	}
	line("would send", "%s", h.Arguments)
	if h.Asked != "" {
		line("was asked", "%s", h.Asked)
	}
	for _, f := range h.Fields {
		line("  "+f.Kind, "%s = %s  (%s)", f.Pointer, f.Text, strings.Join(f.Sources, ", "))
	}
	for _, o := range h.Origins {
		line("came from", "%s", o.Text)
	}
	for _, r := range h.Reasons {
		line("because", "%s%s", r.Policy, orNothing(": ", r.Text))
	}
	for _, n := range h.Needs {
		line("needs", "%s; may decide now: %s", n.Fact, dash(strings.Join(n.May, ", ")))
	}
	if len(h.Taint) > 0 {
		line("has read", "%s", strings.Join(h.Taint, ", "))
	}
	line("risk", "%d, %s", h.Risk.Score, h.Risk.Level)
	line("asked at", "%s; refused by itself at %s", when(h.Created), when(h.Expires))
	for _, v := range h.Votes {
		word := "consents"
		if !v.Consent {
			word = "refuses"
		}
		if !v.Counts {
			word += " to what it was before it was narrowed"
		}
		line("vote", "%s %s, %s%s", v.Approver, word, when(v.At), orNothing(": ", v.Reason))
	}
	if x := h.Ended; x != nil {
		line("ended", "%s%s%s", when(x.At), orNothing(", ", x.Disposition), orNothing(": ", x.Why))
	}
	return nil
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

// voterFlags say who votes, and with which key.
type voterFlags struct {
	As  string `required:"" env:"OSTIARY_APPROVER" placeholder:"NAME" help:"Who votes: the person's name."`
	Key string `required:"" env:"OSTIARY_APPROVER_KEY" placeholder:"FILE" help:"The person's private key, as ostiary person key wrote it."`
}

type approveCmd struct {
	ID     string   `arg:"" help:"The held action: its id, or the beginning of it."`
	Narrow []string `placeholder:"POINTER[=N]" help:"Consent to less: /amount=150 lowers a number, /to/0 drops an element or a member; may be repeated."`
	Reason string   `placeholder:"TEXT" help:"Why; it stays in the log."`
	voterFlags
}

type refuseCmd struct {
	ID     string `arg:"" help:"The held action: its id, or the beginning of it."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; the agent is told it, and it stays in the log."`
	voterFlags
}

func (c *approveCmd) Run(e *env) error {
	edits, err := editsOf(c.Narrow)
	if err != nil {
		return err
	}
	return e.vote(c.voterFlags, control.ChoiceRequest{ID: c.ID, Person: c.As, Consent: true, Reason: strings.TrimSpace(c.Reason), Edits: edits})
}

func (c *refuseCmd) Run(e *env) error {
	return e.vote(c.voterFlags, control.ChoiceRequest{ID: c.ID, Person: c.As, Reason: strings.TrimSpace(c.Reason)})
}

func editsOf(words []string) (all []approval.Edit, err error) {
	for _, w := range words {
		pointer, to, lowers := strings.Cut(w, "=")
		if !strings.HasPrefix(pointer, "/") || lowers && to == "" {
			return nil, ostiary.Errorf(ostiary.Malformed, "narrowing", "--narrow %q: write /amount=150 to lower a number, or /to/0 to drop it", w)
		}
		all = append(all, approval.Edit{Pointer: pointer, To: to, Drop: !lowers})
	}
	return all, nil
}

// vote shows what it is about, checks that the statement is about just that,
// signs it and hands it in.
func (e *env) vote(who voterFlags, c control.ChoiceRequest) error {
	key, spki, err := readVoterKey(who.Key)
	if err != nil {
		return err
	}
	var asked control.VoteAsked
	if err := e.ask(http.MethodPost, "/v1/approvals/ask", nil, c, &asked); err != nil {
		return err
	}
	if err := isAbout(asked, c); err != nil {
		return err
	}
	if !e.cli.JSON {
		if err := e.tellHeld(e.stderr, &asked.Held); err != nil {
			return err
		}
	}
	statement, digest := []byte(asked.Statement), sha256.Sum256([]byte(asked.Statement))
	var signature []byte
	if _, plain := key.Public().(ed25519.PublicKey); plain {
		signature, err = key.Sign(rand.Reader, statement, crypto.Hash(0))
	} else {
		signature, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	if err != nil {
		return err
	}
	var h control.Held
	in := control.VoteRequest{Statement: asked.Statement, Key: spki, Signature: signature, Reason: c.Reason, Edits: c.Edits}
	if err := e.ask(http.MethodPost, "/v1/approvals/vote", nil, in, &h); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(h)
	}
	switch h.State {
	case "refused":
		fmt.Fprintf(e.stdout, "%s is refused; %s is told why\n", h.ID, show(h.Agent))
	case "pending":
		fmt.Fprintf(e.stdout, "%s consents to %s; it waits for others too\n", c.Person, h.ID)
	default:
		fmt.Fprintf(e.stdout, "%s is approved, and is carried out by %s\n", h.ID, h.Gateway)
	}
	return nil
}

// isAbout checks that the statement to be signed is a vote of this choice on
// just what is shown: whoever sits between cannot have another one signed.
func isAbout(asked control.VoteAsked, c control.ChoiceRequest) error {
	wrong := func(why string) error {
		return ostiary.Errorf(ostiary.Corrupt, "vote_question", "what the gateway wants signed is not what it shows: %s", why)
	}
	v, err := ostiary.ParseVote(asked.Statement)
	if err != nil {
		return err
	}
	h := &asked.Held
	q, err := questionOf(h)
	if err != nil {
		return wrong(err.Error())
	}
	reason := ostiary.Digest{}
	if c.Reason != "" {
		reason = ostiary.DigestOf([]byte(c.Reason))
	}
	switch {
	case v.Question != q.Digest():
		return wrong("the action is another one")
	case v.Consent != c.Consent || v.Approver != ostiary.PrincipalID("person:"+c.Person) || v.Reason != reason || string(v.Hold) != h.ID:
		return wrong("the vote is another one")
	}
	return nil
}

// questionOf computes what a vote is over from what is shown.
func questionOf(h *control.Held) (q ostiary.Question, err error) {
	a := ostiary.Action{Name: h.Action, Method: h.Method, Server: h.Server, Tool: h.Tool, URI: h.URI, State: h.FarState}
	if h.Stateful && a.State == nil {
		a.State = []byte{}
	}
	if a.Pin, err = ostiary.ParseDigest(h.Pin); err != nil {
		return q, err
	}
	if a.Arguments, err = deferred.Arguments([]byte(h.Arguments)); err != nil {
		return q, err
	}
	if a.Responses, err = deferred.Arguments([]byte(h.Responses)); err != nil {
		return q, err
	}
	q = ostiary.Question{
		Hold: ostiary.HoldID(h.ID), Action: a.Digest(), Agent: ostiary.AgentID(h.Agent), Principal: ostiary.PrincipalID(h.Principal),
		Mandate: ostiary.MandateID(h.Mandate), Session: ostiary.SessionID(h.Session), Expires: h.Expires,
	}
	if q.Asked, err = ostiary.ParseDigest(h.Original); err != nil {
		return q, err
	}
	if q.Policy, err = ostiary.ParseDigest(h.Policy); err != nil {
		return q, err
	}
	salt, err := hex.DecodeString(h.Salt)
	if err == nil && copy(q.Salt[:], salt) != len(q.Salt) {
		err = hex.ErrLength
	}
	return q, err
}

// maxKeyFile bounds the file of a private key.
const maxKeyFile = 64 << 10

// readVoterKey reads a private key that nobody else may read.
func readVoterKey(path string) (crypto.Signer, []byte, error) {
	bad := func(format string, a ...any) (crypto.Signer, []byte, error) {
		return nil, nil, ostiary.Errorf(ostiary.Malformed, "key", "--key %s: %s", path, fmt.Sprintf(format, a...))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return bad("only its owner may read it: chmod 600")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return bad("it holds no private key in PEM (PKCS #8)")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := any.(crypto.Signer)
	if err != nil || !ok {
		return bad("it holds no private key in PEM (PKCS #8)")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	return key, spki, err
}

type personKeyCmd struct {
	Name   string `arg:"" help:"The person's name."`
	Out    string `placeholder:"FILE" help:"Make a key pair, and write the private key to this new file with mode 0600."`
	Public string `placeholder:"FILE" help:"Register this public key (PEM) instead: Ed25519, or ECDSA on P-256, for example of a security key."`
	Drop   string `placeholder:"ID" help:"Take this key from the person."`
}

func (c *personKeyCmd) Run(e *env) error {
	given := 0
	for _, s := range []string{c.Out, c.Public, c.Drop} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return ostiary.Errorf(ostiary.Malformed, "person_key", "give one of --out, --public and --drop")
	}
	var out control.PersonKey
	if c.Drop != "" {
		if err := e.ask(http.MethodPost, "/v1/people/key/drop", nil, control.PersonKeyRequest{Name: c.Name, ID: c.Drop}, &out); err != nil {
			return err
		}
		if e.cli.JSON {
			return e.printJSON(out)
		}
		fmt.Fprintf(e.stdout, "%s has the key %s no more; what they voted with it and is not carried out yet does not count\n", c.Name, c.Drop)
		return nil
	}
	spki, err := c.public()
	if err != nil {
		return err
	}
	if err := e.ask(http.MethodPost, "/v1/people/key", nil, control.PersonKeyRequest{Name: c.Name, Key: spki}, &out); err != nil {
		if c.Out != "" {
			os.Remove(c.Out) // nobody knows it
		}
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "%s may vote from the command line with key %s\n", c.Name, out.ID)
	if c.Out != "" {
		fmt.Fprintf(e.stderr, "The private key is in %s. Whoever can read it can vote as %s: hand it over where nobody else reads, and keep no copy.\n", c.Out, c.Name)
	}
	return nil
}

// public returns the key to register, and makes a pair if there is none.
func (c *personKeyCmd) public() ([]byte, error) {
	if c.Public != "" {
		b, err := os.ReadFile(c.Public)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, ostiary.Errorf(ostiary.Malformed, "person_key", "--public %s: it holds no public key in PEM", c.Public)
		}
		return block.Bytes, nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(pub)
}
