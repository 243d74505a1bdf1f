package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// MaxSeq is the last sequence number of a second: the id space of a catalog
// is 999,999 versions a second.
const MaxSeq = 999_999

// Version is a TimeSeqID: the second of the index's clock in which it was
// reserved, and a number within that second and catalog, 1 to MaxSeq.
// The zero Version, written 0_0, is "before everything".
type Version struct {
	Sec int64  // seconds since 1970, 0 to 9,999,999,999
	Seq uint32 // 1 to MaxSeq
}

// maxSec is the last second that has ten digits; layouts and scores rely on
// fixed width.
const maxSec = 9_999_999_999

// IsZero tells whether v is 0_0, "before everything".
func (v Version) IsZero() bool { return v == Version{} }

// Compare orders versions: -1, 0 or +1.
func (v Version) Compare(w Version) int {
	if c := cmp.Compare(v.Sec, w.Sec); c != 0 {
		return c
	}
	return cmp.Compare(v.Seq, w.Seq)
}

// Less tells whether v is older than w.
func (v Version) Less(w Version) bool { return v.Compare(w) < 0 }

// Add is the version n places after v in the id space: after seq MaxSeq comes
// seq 1 of the next second, so that no id is wasted. Adding to 0_0 counts
// from 0_1.
func (v Version) Add(n int) Version {
	if n == 0 {
		return v
	}
	o := v.ordinal() + int64(n)
	return Version{Sec: o / MaxSeq, Seq: uint32(o%MaxSeq) + 1}
}

// Sub is how many versions v lies after w in the id space.
func (v Version) Sub(w Version) int64 { return v.ordinal() - w.ordinal() }

func (v Version) ordinal() int64 { return v.Sec*MaxSeq + int64(v.Seq) - 1 }

// Time is the second of v.
func (v Version) Time() time.Time { return time.Unix(v.Sec, 0).UTC() }

// Valid tells whether v is 0_0 or has a second of at most ten digits and a
// sequence number of 1 to MaxSeq.
func (v Version) Valid() bool {
	return v.IsZero() || v.Sec >= 0 && v.Sec <= maxSec && v.Seq >= 1 && v.Seq <= MaxSeq
}

// String is the underscore form: "1700000000_1".
func (v Version) String() string {
	b := strconv.AppendInt(make([]byte, 0, 17), v.Sec, 10)
	b = append(b, '_')
	return string(strconv.AppendUint(b, uint64(v.Seq), 10))
}

// Score is the decimal form with exactly six decimals, "1700000000.000001":
// the score of a sorted set. It survives a float64 for seconds below 2^32, the
// year 2106 (Score and VersionFromScore are inverse; a test holds it).
func (v Version) Score() string {
	b := strconv.AppendInt(make([]byte, 0, 17), v.Sec, 10)
	b = append(b, '.')
	s := strconv.FormatUint(uint64(v.Seq), 10)
	b = append(b, "000000"[:6-min(6, len(s))]...)
	return string(append(b, s...))
}

// Codec is v as the frame format knows it: two integers.
func (v Version) Codec() codec.Version { return codec.Version{Sec: v.Sec, Seq: v.Seq} }

// MarshalText gives the underscore form.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText parses the underscore form.
func (v *Version) UnmarshalText(b []byte) error {
	w, err := ParseVersion(string(b))
	if err != nil {
		return err
	}
	*v = w
	return nil
}

var (
	_ json.Unmarshaler = (*Version)(nil)
)

// UnmarshalJSON parses a JSON string in the underscore form.
func (v *Version) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return invalid("invalid_version", "version", "a version is a JSON string such as \"1700000000_1\", not %s", b)
	}
	return v.UnmarshalText([]byte(s))
}

// ParseVersion parses the underscore form, "1700000000_1" or "0_0": decimal
// digits without sign or leading zeros, seq 1 to 999,999. The error is an
// *InvalidError with code "invalid_version".
func ParseVersion(s string) (Version, error) {
	a, b, ok := strings.Cut(s, "_")
	if !ok || !plainNumber(a, 10) || !plainNumber(b, 6) {
		return Version{}, invalid("invalid_version", "version", "%q is not a version such as \"1700000000_1\"", s)
	}
	return makeVersion(s, a, b)
}

// ParseScore parses the decimal form with exactly six decimals and seq > 0:
// "1700000000.000001" to "1700000000.999999".
func ParseScore(s string) (Version, error) {
	a, b, ok := strings.Cut(s, ".")
	if !ok || !plainNumber(a, 10) || len(b) != 6 || strings.Trim(b, "0123456789") != "" {
		return Version{}, invalid("invalid_version", "version", "%q is not a score such as \"1700000000.000001\" (exactly six decimals)", s)
	}
	return makeVersion(s, a, b)
}

// VersionFromScore gives the version of a score that travelled as a float64.
// The value must lie within 0.4 of a millionth of a version, which every
// float64 nearest to a valid score does.
func VersionFromScore(f float64) (Version, error) {
	if math.IsNaN(f) || f < 0 || f > maxSec+1 {
		return Version{}, invalid("invalid_version", "version", "%v is not the score of a version", f)
	}
	sec := math.Floor(f)
	micro := (f - sec) * 1e6
	seq := math.Round(micro)
	if math.Abs(micro-seq) > 0.4+1e-9 || seq < 1 || seq > MaxSeq {
		return Version{}, invalid("invalid_version", "version", "%v is not the score of a version: its six decimals must be 000001 to 999999", f)
	}
	return Version{Sec: int64(sec), Seq: uint32(seq)}, nil
}

func makeVersion(s, sec, seq string) (Version, error) {
	a, errA := strconv.ParseInt(sec, 10, 64)
	b, errB := strconv.ParseUint(seq, 10, 32)
	v := Version{Sec: a, Seq: uint32(b)}
	if errA != nil || errB != nil || !v.Valid() || v.IsZero() && s != "0_0" {
		return Version{}, invalid("invalid_version", "version", "%q: the number after the second is 1 to %d", s, MaxSeq)
	}
	return v, nil
}

// plainNumber: one to n digits, no leading zero but in "0" itself.
func plainNumber(s string, n int) bool {
	return s != "" && len(s) <= n && strings.Trim(s, "0123456789") == "" && (s[0] != '0' || s == "0")
}

// MaxVersion is the greater of v and w.
func MaxVersion(v, w Version) Version {
	if v.Less(w) {
		return w
	}
	return v
}

var _ fmt.Stringer = Version{}
