package engine

import "testing"

func TestEpochKeys(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 1, 999_999, 1_000_000, 1<<64 - 1} {
		if got, seal, ok := parseEpochKey(epochKey(n)); !ok || seal || got != n {
			t.Errorf("%s: got %d, seal %v, ok %v", epochKey(n), got, seal, ok)
		}
		if got, seal, ok := parseEpochKey(sealKey(n)); !ok || !seal || got != n {
			t.Errorf("%s: got %d, seal %v, ok %v", sealKey(n), got, seal, ok)
		}
	}
	for _, c := range []struct{ got, want string }{
		{formatKey, "_lake/format.json"}, {epochKey(7), "_lake/epoch/000007.json"}, {sealKey(7), "_lake/epoch/000007.seal.json"}, {walEpochPrefix(7), "wal/000007/"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
	for _, key := range []string{
		"", formatKey, epochPrefix, "_lake/epoch/1.json", "_lake/epoch/0000001.json", "_lake/epoch/000001", "_lake/epoch/000001.seal", "_lake/epoch/000001.json.seal.json", "_lake/epoch/+00001.json",
		"_lake/epoch/-00001.json", "_lake/epoch/00000a.json", "_lake/epoch/000001.json.tmp", "x_lake/epoch/000001.json", "_lake/epoch/99999999999999999999.json", "_lake/epoch/.seal.json",
	} {
		if n, seal, ok := parseEpochKey(key); ok {
			t.Errorf("%q: got epoch %d, seal %v, want it refused", key, n, seal)
		}
	}
}
