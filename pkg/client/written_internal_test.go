package client

import (
	"encoding/json"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// What is read by hand is what encoding/json reads; the rest is left to it.
func TestDecodeWritten(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text string
		hand bool
	}{
		{`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}`, true},
		{`{"version":"1700000001_999999","first":"1700000000_1","count":5000,"duplicate":true}`, true},
		{`{"version":"1700000000_1","first":"0_0","count":0,"duplicate":false}`, true},
		{` {"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false} `, false},
		{`{"first":"1700000000_1","version":"1700000000_1","count":1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false,"more":1}`, false},
		{`{"version":"1700000000_\u0031","first":"1700000000_1","count":1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":1e0,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":+1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":01,"duplicate":false}`, false},
		{`{"version":"1700000000_0","first":"1700000000_1","count":1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"","count":1,"duplicate":false}`, false},
		{`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false`, false},
		{`{"version":"1700000000_1"`, false},
		{`{}`, false},
		{``, false},
	} {
		var got, want engine.WriteResult
		hand := decodeWritten([]byte(tc.text), &got)
		if hand != tc.hand {
			t.Errorf("%s: read by hand %v, want %v", tc.text, hand, tc.hand)
		}
		if !hand {
			continue
		}
		if err := json.Unmarshal([]byte(tc.text), &want); err != nil || got != want {
			t.Errorf("%s: got %+v, want %+v, %v", tc.text, got, want, err)
		}
	}
}

func BenchmarkDecodeWritten(b *testing.B) {
	text := []byte(`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}`)
	for name, read := range map[string]func(res *engine.WriteResult) bool{
		"hand": func(res *engine.WriteResult) bool { return decodeWritten(text, res) },
		"json": func(res *engine.WriteResult) bool { return json.Unmarshal(text, res) == nil },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var res engine.WriteResult
				if !read(&res) {
					b.Fatal("not read")
				}
			}
		})
	}
}
