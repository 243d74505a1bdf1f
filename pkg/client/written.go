package client

import (
	"bytes"
	"strconv"

	"github.com/jsonlake/lake/pkg/engine"
)

// decodeWritten reads the answer to a write. The form in which services lay it out is
// read by hand: encoding/json took a quarter of what a small write costs its client.
// Any other form is left to it, and so is every error.
func decodeWritten(b []byte, res *engine.WriteResult) bool {
	version, b, ok1 := field(b, `{"version":"`, '"')
	first, b, ok2 := field(b, `,"first":"`, '"')
	count, b, ok3 := field(b, `,"count":`, ',')
	if !ok1 || !ok2 || !ok3 {
		return false
	}
	r := engine.WriteResult{}
	switch string(b) {
	case `"duplicate":false}`:
	case `"duplicate":true}`:
		r.Duplicate = true
	default:
		return false
	}
	var err error
	if r.Version, err = engine.ParseVersion(string(version)); err != nil {
		return false
	}
	if r.First = r.Version; !bytes.Equal(first, version) {
		if r.First, err = engine.ParseVersion(string(first)); err != nil {
			return false
		}
	}
	if r.Count, err = strconv.Atoi(string(count)); err != nil || count[0] < '0' || len(count) > 1 && count[0] == '0' {
		return false
	}
	*res = r
	return true
}

// field cuts what stands between a beginning and the next end out of b.
func field(b []byte, begin string, end byte) (value, rest []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(begin))
	at := bytes.IndexByte(b, end)
	if !ok || at < 1 {
		return nil, nil, false
	}
	return b[:at], b[at+1:], true
}
