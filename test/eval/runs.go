package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// recorded is one run of a file.
type recorded struct {
	ID     string `json:"id"`
	Suite  string `json:"suite"`
	Prompt string `json:"prompt"`
	Steps  []step `json:"steps"`
	Oracle struct {
		Class     string `json:"class"`
		Malicious []int  `json:"malicious_steps"`
	} `json:"oracle"`
}

// step is one call and what came of it.
type step struct {
	Turn   int             `json:"turn"`
	Tool   string          `json:"tool"`
	Args   json.RawMessage `json:"args"`
	Result any             `json:"result"`
	Error  any             `json:"error"`
}

// The classes that count.
const (
	classAttack = "attack_succeeded"
	classHonest = "benign_ok"
)

// maxLine bounds one recorded run.
const maxLine = 64 << 20

func findSuites(dir string) ([]string, error) {
	var files []string
	for _, pattern := range []string{"*.jsonl", "*.jsonl.gz"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no recorded runs (*.jsonl, *.jsonl.gz) in %s", dir)
	}
	slices.Sort(files)
	return files, nil
}

// readRuns returns the runs of a file that count.
func readRuns(file string) ([]recorded, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	var out []recorded
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if c := r.Oracle.Class; c == classHonest || c == classAttack && len(r.Oracle.Malicious) > 0 {
			out = append(out, r)
		}
	}
	return out, lines.Err()
}

// argumentsUsed lists, for each tool, the arguments that the runs give it.
func argumentsUsed(runs []recorded) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for i := range runs {
		for _, s := range runs[i].Steps {
			var args map[string]json.RawMessage
			if json.Unmarshal(s.Args, &args) != nil {
				continue
			}
			if out[s.Tool] == nil {
				out[s.Tool] = map[string]bool{}
			}
			for name := range args {
				out[s.Tool][name] = true
			}
		}
	}
	return out
}

// text is what a tool said, as a text.
func (s *step) text() (text string, failed bool) {
	if s.Error != nil && s.Error != "" {
		return fmt.Sprint(s.Error), true
	}
	if t, ok := s.Result.(string); ok {
		return t, false
	}
	b, err := json.Marshal(s.Result)
	if err != nil || s.Result == nil {
		return "", false
	}
	return string(b), false
}

// tools is a list of tools as a file has it.
type tools struct {
	Tools []struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		InputSchema json.RawMessage `json:"inputSchema"`
		Annotations struct {
			ReadOnlyHint bool `json:"readOnlyHint"`
		} `json:"annotations"`
	} `json:"tools"`
}

func readTools(dir, suite string) (t tools, err error) {
	b, err := os.ReadFile(filepath.Join(dir, suite+".tools.json"))
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(b, &t); err != nil || len(t.Tools) == 0 {
		if err = json.Unmarshal(b, &t.Tools); err != nil || len(t.Tools) == 0 {
			return t, fmt.Errorf("%s.tools.json holds no list of tools", suite)
		}
	}
	return t, nil
}

// lenient lets the recorded calls through that the recorded tools let through:
// they were looser than their schemas, and it is not for a schema to catch an
// attack here. What the runs give a tool beside the declared arguments is
// declared too.
func lenient(schema json.RawMessage, used map[string]bool) json.RawMessage {
	var s map[string]any
	if json.Unmarshal(schema, &s) != nil {
		return json.RawMessage(`{"type":"object"}`)
	}
	delete(s, "required")
	s["additionalProperties"] = true
	props, _ := s["properties"].(map[string]any)
	if props == nil {
		props = map[string]any{}
		s["properties"] = props
	}
	for name := range used {
		if props[name] == nil {
			props[name] = map[string]any{}
		}
	}
	for name, v := range props {
		p, ok := v.(map[string]any)
		if !ok {
			continue
		}
		types := []any{"string", "number", "boolean", "array", "object", "null"}
		switch t := p["type"].(type) {
		case string:
			types = append([]any{t}, slices.DeleteFunc(types, func(x any) bool { return x == t })...)
		case nil:
			types = nil
		}
		loose := map[string]any{}
		for _, keep := range []string{"description", "title"} {
			if p[keep] != nil {
				loose[keep] = p[keep]
			}
		}
		if types != nil {
			loose["type"] = types
		}
		props[name] = loose
	}
	b, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage(`{"type":"object"}`)
	}
	return b
}
