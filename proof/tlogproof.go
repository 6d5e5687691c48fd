package proof

import (
	"encoding/base64"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

const proofHeader = "c2sp.org/tlog-proof@v1"

// Inclusion is a C2SP tlog-proof: where an entry stands, the path from it to
// the root, and the signed checkpoint of that root.
type Inclusion struct {
	Extra      []byte // not authenticated; nil if there is none
	Index      uint64
	Path       []tlog.Hash
	Checkpoint []byte // signed note
}

// Format returns the proof's text.
func (p *Inclusion) Format() []byte {
	b := []byte(proofHeader + "\n")
	if p.Extra != nil {
		b = append(b, "extra "...)
		b = base64.StdEncoding.AppendEncode(b, p.Extra)
		b = append(b, '\n')
	}
	b = append(b, "index "...)
	b = strconv.AppendUint(b, p.Index, 10)
	b = append(b, '\n')
	for _, h := range p.Path {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

// ParseInclusion reads a tlog-proof, strictly. Nothing is verified.
func ParseInclusion(b []byte) (*Inclusion, error) {
	bad := func(why string) (*Inclusion, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "tlog_proof", "%s", why)
	}
	if len(b) > MaxNote+64<<10 {
		return bad("too long")
	}
	head, checkpoint, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return bad("no checkpoint follows")
	}
	lines := strings.Split(head, "\n")
	if lines[0] != proofHeader {
		return bad("not a tlog-proof of version 1")
	}
	lines = lines[1:]
	p := &Inclusion{Checkpoint: []byte(checkpoint)}
	if len(lines) > 0 {
		if s, ok := strings.CutPrefix(lines[0], "extra "); ok {
			var err error
			if p.Extra, err = base64.StdEncoding.Strict().DecodeString(s); err != nil {
				return bad("extra data is not base64")
			}
			lines = lines[1:]
		}
	}
	if len(lines) == 0 || len(lines) > 65 {
		return bad("want an index and at most 64 hashes")
	}
	s, ok := strings.CutPrefix(lines[0], "index ")
	n, err := strconv.ParseUint(s, 10, 62)
	if !ok || err != nil || strconv.FormatUint(n, 10) != s {
		return bad("index is not a number")
	}
	p.Index = n
	for _, s := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(h) != tlog.HashSize || base64.StdEncoding.EncodeToString(h) != s {
			return bad("a hash is not one in base64")
		}
		p.Path = append(p.Path, tlog.Hash(h))
	}
	return p, nil
}

// Verify checks that the proof's checkpoint is signed under the log's
// verifier key and that exactly this entry stands at its index.
func (p *Inclusion) Verify(entry []byte, vkey string) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, vkey)
	if err != nil {
		return Checkpoint{}, err
	}
	e, err := ParseEntry(entry)
	if err != nil {
		return Checkpoint{}, err
	}
	if e.Log != c.Origin {
		return Checkpoint{}, ostiary.Errorf(ostiary.Corrupt, "tlog_proof", "the entry is of another log")
	}
	return c, CheckInclusion(c, p.Index, entry, p.Path)
}
