// Package mimedb gives tests the history of a real document: that of mime-db's
// db.json, in testdata/mime-db.
//
// Only test files may import this package. It stands apart from testenv so that a
// test that needs no server does not link them.
package mimedb

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Revision is a line of the history; testdata/mime-db/README.md has its fields.
type Revision struct {
	N      int             `json:"n"`
	Merge  string          `json:"merge"` // a merge type: what its UnmarshalText takes
	Body   json.RawMessage `json:"body"`
	SHA256 string          `json:"sha256"` // the Checksum of the document after it
}

// History reads all revisions, the oldest first. root is the way from the test's
// directory to that of go.mod.
func History(tb testing.TB, root string) []Revision {
	tb.Helper()
	f, err := os.Open(filepath.Join(root, "testdata", "mime-db", "history.ndjson.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var all []Revision
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r Revision
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			tb.Fatal(err)
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil || len(all) != 233 {
		tb.Fatalf("got %d revisions (%v), want 233", len(all), err)
	}
	return all
}

// Checksum is that of a document's canonical form: keys sorted at every level, no
// white space, UTF-8 without escapes.
func Checksum(tb testing.TB, doc []byte) string {
	tb.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		tb.Fatalf("decode the document: %v", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:])
}
