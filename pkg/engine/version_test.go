package engine_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func ver(sec int64, seq uint32) engine.Version { return engine.Version{Sec: sec, Seq: seq} }

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]engine.Version{
		"0_0": {}, "0_1": ver(0, 1), "1_1": ver(1, 1), "1700000000_1": ver(1_700_000_000, 1), "1700000000_999999": ver(1_700_000_000, 999_999), "9999999999_999999": ver(9_999_999_999, 999_999),
	} {
		if got, err := engine.ParseVersion(s); err != nil || got != want || got.String() != s || !got.Valid() {
			t.Errorf("%q: got %s and error %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "_", "1", "1700000000", "1700000000_", "_1", "1700000000_0", "1700000000_1000000", "10000000000_1", "01_1", "1_01", "00_0", "0_00", "+1_1", "-1_1", "1_-1", "1_+1",
		" 1_1", "1_1 ", "1_1\n", "1_1_1", "1__1", "1.1", "1700000000.000001", "1e3_1", "0x1_1", "１_1", "1_١", "latest", "99999999999999999999_1",
	} {
		got, err := engine.ParseVersion(s)
		var invalid *engine.InvalidError
		if !errors.As(err, &invalid) || invalid.Code != "invalid_version" || invalid.Field != "version" || got != (engine.Version{}) {
			t.Errorf("%q: got %s and error %#v, want invalid_version", s, got, err)
		}
	}
}

func TestParseScore(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]engine.Version{
		"1700000000.000001": ver(1_700_000_000, 1), "1700000000.999999": ver(1_700_000_000, 999_999), "1700000000.100000": ver(1_700_000_000, 100_000), "0.000001": ver(0, 1), "9999999999.000010": ver(9_999_999_999, 10),
	} {
		if got, err := engine.ParseScore(s); err != nil || got != want || got.Score() != s {
			t.Errorf("%q: got %s and error %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", ".", "1700000000", "1700000000.", ".000001", "1700000000.000000", "0.000000", "1700000000.00001", "1700000000.0000001", "1700000000.00000a", "1700000000.+00001", "1700000000,000001",
		"01700000000.000001", "-1.000001", "+1.000001", "1e9.000001", "10000000000.000001", "1700000000_1", "1700000000.000001 ", "NaN", "inf", "1.000001.1", "1700000000.-00001", "1700000000.00 001",
	} {
		if got, err := engine.ParseScore(s); !errors.Is(err, engine.ErrInvalid) || got != (engine.Version{}) {
			t.Errorf("%q: got %s and error %v, want %v", s, got, err, engine.ErrInvalid)
		}
	}
}

// A score survives a float64 up to the year 2106: neighbours stay apart.
func TestVersionFromScore(t *testing.T) {
	t.Parallel()
	check := func(want engine.Version) {
		t.Helper()
		f, err := strconv.ParseFloat(want.Score(), 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := engine.VersionFromScore(f); err != nil || got != want {
			t.Fatalf("%s as %v: got %s and error %v", want, f, got, err)
		}
	}
	for _, sec := range []int64{0, 1, 1_000_000_000, 1_700_000_000, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		for _, seq := range []uint32{1, 2, 9, 10, 499_999, 500_000, 500_001, 999_998, 999_999} {
			check(ver(sec, seq))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		check(ver(rnd.Int64N(1<<32), 1+rnd.Uint32N(engine.MaxSeq)))
	}
	for _, f := range []float64{
		math.NaN(), math.Inf(1), math.Inf(-1), -1, -0.000001, 0, 1_700_000_000, 1_700_000_000.0000005, 1_700_000_000.9999998, 1e300, 1e11, math.MaxFloat64,
	} {
		if got, err := engine.VersionFromScore(f); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%v: got %s and error %v, want %v", f, got, err, engine.ErrInvalid)
		}
	}
}

func TestVersionAdd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from engine.Version
		n    int
		want engine.Version
	}{
		{ver(0, 0), 0, ver(0, 0)}, {ver(0, 0), 1, ver(0, 1)}, {ver(0, 0), 999_999, ver(0, 999_999)}, {ver(0, 0), 1_000_000, ver(1, 1)},
		{ver(5, 1), 0, ver(5, 1)}, {ver(5, 1), 1, ver(5, 2)}, {ver(5, 999_998), 1, ver(5, 999_999)}, {ver(5, 999_999), 1, ver(6, 1)}, {ver(5, 1), 999_999, ver(6, 1)}, {ver(5, 2), 999_998, ver(6, 1)},
		{ver(5, 7), 3 * 999_999, ver(8, 7)}, {ver(5, 0), 1, ver(5, 1)}, {ver(5, 0), 999_999, ver(5, 999_999)}, {ver(5, 2), -1, ver(5, 1)}, {ver(6, 1), -1, ver(5, 999_999)}, {ver(0, 1), -1, ver(0, 0)},
	} {
		if got := c.from.Add(c.n); got != c.want {
			t.Errorf("%s + %d: got %s, want %s", c.from, c.n, got, c.want)
		}
		if got := c.want.Sub(c.from); got != int64(c.n) {
			t.Errorf("%s − %s: got %d, want %d", c.want, c.from, got, c.n)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	t.Parallel()
	list := []engine.Version{ver(0, 0), ver(0, 1), ver(0, 999_999), ver(1, 1), ver(999_999, 1), ver(1_700_000_000, 1), ver(1_700_000_000, 2), ver(1_700_000_000, 10), ver(1_700_000_001, 1), ver(9_999_999_999, 999_999)}
	for i, a := range list {
		for k, b := range list {
			want := 0
			switch {
			case i < k:
				want = -1
			case i > k:
				want = 1
			}
			if got := a.Compare(b); got != want || a.Less(b) != (want < 0) {
				t.Errorf("%s against %s: got %d, less %v, want %d", a, b, got, a.Less(b), want)
			}
			if got := engine.MaxVersion(a, b); got != list[max(i, k)] {
				t.Errorf("the greater of %s and %s: got %s", a, b, got)
			}
		}
	}
	if !ver(0, 0).IsZero() || ver(0, 1).IsZero() || ver(1, 0).IsZero() {
		t.Error("0_0 and it alone is zero")
	}
	for _, bad := range []engine.Version{ver(1, 0), ver(-1, 1), ver(1, 1_000_000), ver(10_000_000_000, 1), ver(1, math.MaxUint32)} {
		if bad.Valid() {
			t.Errorf("%s: got it valid", bad)
		}
	}
	if got, want := ver(1_700_000_000, 5).Time(), time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC); !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVersionJSON(t *testing.T) {
	t.Parallel()
	type record struct {
		V engine.Version            `json:"v"`
		P *engine.Version           `json:"p,omitempty"`
		M map[engine.Version]string `json:"m,omitempty"`
	}
	two := ver(2, 2)
	in := record{V: ver(1_700_000_000, 1), P: &two, M: map[engine.Version]string{ver(3, 3): "x"}}
	b, err := json.Marshal(in)
	if want := `{"v":"1700000000_1","p":"2_2","m":{"3_3":"x"}}`; err != nil || string(b) != want {
		t.Fatalf("got %s and error %v, want %s", b, err, want)
	}
	var out record
	if err := json.Unmarshal(b, &out); err != nil || out.V != in.V || *out.P != two || out.M[ver(3, 3)] != "x" {
		t.Fatalf("got %+v and error %v, want %+v", out, err, in)
	}
	for _, s := range []string{`1700000000.000001`, `17`, `true`, `{}`, `[]`, `""`, `"1"`, `"1_0"`, `"1700000000.000001"`} {
		out := ver(7, 7)
		if err := json.Unmarshal([]byte(s), &out); !errors.Is(err, engine.ErrInvalid) || out != ver(7, 7) {
			t.Errorf("%s: got %s and error %v, want %v and nothing changed", s, out, err, engine.ErrInvalid)
		}
	}
}

// FuzzVersion: what parses has one spelling in each form.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"0_0", "1700000000_1", "1700000000_999999", "1700000000.000001", "1700000000.999999", "", "1_0", "01_1", "1_1_1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, form := range []struct {
			parse func(string) (engine.Version, error)
			print func(engine.Version) string
		}{{engine.ParseVersion, engine.Version.String}, {engine.ParseScore, engine.Version.Score}} {
			got, err := form.parse(s)
			if err != nil {
				if !errors.Is(err, engine.ErrInvalid) || got != (engine.Version{}) {
					t.Fatalf("%q: got %s and error %v", s, got, err)
				}
				continue
			}
			if form.print(got) != s || !got.Valid() {
				t.Fatalf("%q: got %+v, which prints as %q", s, got, form.print(got))
			}
			if got.IsZero() {
				continue
			}
			if again, err := engine.ParseScore(got.Score()); err != nil || again != got {
				t.Fatalf("score %q of %s: got %s and error %v", got.Score(), got, again, err)
			}
			if fl, _ := strconv.ParseFloat(got.Score(), 64); got.Sec < 1<<32 {
				if again, err := engine.VersionFromScore(fl); err != nil || again != got {
					t.Fatalf("float %v of %s: got %s and error %v", fl, got, again, err)
				}
			}
			if next := got.Add(1); !got.Less(next) || next.Sub(got) != 1 || next.Add(-1) != got {
				t.Fatalf("after %s comes %s", got, next)
			}
		}
	})
}
