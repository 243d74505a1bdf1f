package engine

import (
	"crypto/md5" //nolint:gosec // a spreading hash for names, not a security boundary
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// MaxCatalogBytes is the longest name of a catalog, in bytes of UTF-8. The
// encoded form is then at most 205 characters, which keeps NATS control lines
// (4,096 bytes) and object keys (1,024 bytes) far from their limits.
const MaxCatalogBytes = 128

// Shards is the number of index shards of a lake. A catalog belongs to the
// shard of the first hexadecimal digit of the MD5 of its name.
const Shards = 16

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ValidateCatalog holds the rules of a catalog's name: valid UTF-8, 1 to
// MaxCatalogBytes bytes, no control characters. The error is an *InvalidError
// with code "invalid_catalog".
func ValidateCatalog(name string) error {
	switch {
	case name == "":
		return invalid("invalid_catalog", "catalog", "a catalog needs a name of 1 to %d bytes", MaxCatalogBytes)
	case len(name) > MaxCatalogBytes:
		return invalid("invalid_catalog", "catalog", "the name has %d bytes, at most %d are allowed", len(name), MaxCatalogBytes)
	case !utf8.ValidString(name):
		return invalid("invalid_catalog", "catalog", "the name is not valid UTF-8")
	}
	for i, r := range name {
		if unicode.IsControl(r) {
			return invalidAt("invalid_catalog", "catalog", i, "control character %U at byte %d of the name", r, i)
		}
	}
	return nil
}

// EncodeCatalog gives the form of a catalog's name that is safe as a NATS
// subject token, as a part of an object key and as a Redis hash tag:
// [a-z0-9_-] becomes "(users", [A-Z0-9_-] becomes ")USERS" (no letters at all
// counts as lower case), anything else becomes lower-case base32 (RFC 4648,
// no padding), which cannot begin with a parenthesis. The encoding is
// injective; DecodeCatalog is its inverse.
func EncodeCatalog(name string) string {
	lower, upper := true, true
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z':
			upper = false
		case c >= 'A' && c <= 'Z':
			lower = false
		case c >= '0' && c <= '9', c == '_', c == '-':
		default:
			lower, upper = false, false
		}
	}
	switch {
	case lower:
		return "(" + name
	case upper:
		return ")" + name
	default:
		return base32Lower.EncodeToString([]byte(name))
	}
}

// DecodeCatalog is the inverse of EncodeCatalog. It accepts canonical tokens
// only: whatever it accepts encodes to the same token again.
func DecodeCatalog(token string) (string, error) {
	var name string
	if strings.HasPrefix(token, "(") || strings.HasPrefix(token, ")") {
		name = token[1:]
	} else {
		b, err := base32Lower.DecodeString(token)
		if err != nil {
			return "", invalid("invalid_catalog", "catalog", "%q is not an encoded catalog name; `lake encode NAME` prints one", token)
		}
		name = string(b)
	}
	if err := ValidateCatalog(name); err != nil {
		return "", err
	}
	if EncodeCatalog(name) != token {
		return "", invalid("invalid_catalog", "catalog", "%q is not the canonical encoding of its name; `lake encode NAME` prints it", token)
	}
	return name, nil
}

// Shard is the index shard of a catalog, 0 to Shards-1.
func Shard(catalog string) int {
	slot := &knownShards.slots[maphash.String(knownShards.seed, catalog)%uint64(len(knownShards.slots))]
	if last := slot.Load(); last != nil && last.catalog == catalog {
		return last.shard
	}
	sum := md5.Sum([]byte(catalog)) //nolint:gosec // see the import
	shard := int(sum[0] >> 4)
	if len(catalog) <= MaxCatalogBytes {
		slot.Store(&shardOf{strings.Clone(catalog), shard})
	}
	return shard
}

// knownShards are the shards of catalogs that were asked for last: a write asks four times,
// and the hash was 5 % of what it costs ingest. At most 800 KB.
var knownShards = struct {
	seed  maphash.Seed
	slots [4096]atomic.Pointer[shardOf]
}{seed: maphash.MakeSeed()}

type shardOf struct {
	catalog string
	shard   int
}

// CatalogDir is where a catalog's snapshots and packs stand in the bucket:
// the first four hexadecimal digits of the MD5 of its name, which spread the
// keys, and its encoded name: "9bc6/(users".
func CatalogDir(catalog string) string {
	sum := md5.Sum([]byte(catalog)) //nolint:gosec // see the import
	return fmt.Sprintf("%s/%s", hex.EncodeToString(sum[:2]), EncodeCatalog(catalog))
}
