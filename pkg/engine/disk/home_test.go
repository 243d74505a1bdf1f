package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// One process has the index, and says where it can be reached.
func TestLocked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "index")
	x := openIndex(t, dir, disk.Options{})
	if !x.Clean() || !x.Exclusive() {
		t.Errorf("a new index: got clean %v, exclusive %v, want both", x.Clean(), x.Exclusive())
	}
	var locked *disk.LockedError
	_, err := disk.OpenIndex(dir, disk.Options{})
	if !errors.Is(err, disk.ErrLocked) || !errors.As(err, &locked) || locked.Dir != dir || locked.Address != "" || !strings.Contains(err.Error(), dir) {
		t.Errorf("open: got %v, want it locked, naming %s", err, dir)
	}
	if a, err := disk.Address(dir); a != "" || err != nil {
		t.Errorf("address: got %q, %v, want none", a, err)
	}
	for _, addr := range []string{"nats://127.0.0.1:1", "nats://127.0.0.1:4222"} {
		if err := x.SetAddress(addr); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := disk.Address(dir); a != "nats://127.0.0.1:4222" || err != nil {
		t.Errorf("address: got %q, %v", a, err)
	}
	if _, err := disk.OpenIndex(dir, disk.Options{}); !errors.As(err, &locked) || locked.Address != "nats://127.0.0.1:4222" || !strings.Contains(err.Error(), locked.Address) {
		t.Errorf("open: got %v, want the address", err)
	}
	// By another name of the directory.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.OpenIndex(link, disk.Options{}); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("open by another name: got %v, want %v", err, disk.ErrLocked)
	}
	for range 2 {
		if err := x.Close(); err != nil {
			t.Errorf("close: got %v, want no error", err)
		}
	}
	if a, err := disk.Address(dir); a != "" || err != nil {
		t.Errorf("address after close: got %q, %v, want none", a, err)
	}
	if _, err := x.Epochs(t.Context()); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("epochs after close: got %v, want %v", err, engine.ErrClosed)
	}
	if err := x.SetAddress("a"); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("set address after close: got %v, want %v", err, engine.ErrClosed)
	}
	if y := openIndex(t, dir, disk.Options{}); !y.Clean() {
		t.Error("got an unclean index after a close")
	}
}

// An index that was opened after a kill and never fenced since is no cleaner
// after a close.
func TestUncleanStaysUnclean(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := openIndex(t, dir, disk.Options{})
	if err := fenceAndOpen(t.Context(), x, 1); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "CLEAN")); err != nil { // as a kill leaves it
		t.Fatal(err)
	}
	for range 2 {
		x = openIndex(t, dir, disk.Options{})
		if x.Clean() {
			t.Fatal("got a clean index after a kill")
		}
		if _, err := x.Heartbeat(t.Context(), 1, "aaaaaaaa"); !errors.Is(err, engine.ErrEpoch) {
			t.Fatalf("work: got %v, want %v", err, engine.ErrEpoch)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	x = openIndex(t, dir, disk.Options{})
	if err := fenceAndOpen(t.Context(), x, 2); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = openIndex(t, dir, disk.Options{})
	if !x.Clean() {
		t.Fatal("got an unclean index after a new epoch and a close")
	}
	if _, err := x.Heartbeat(t.Context(), 2, "aaaaaaaa"); err != nil {
		t.Errorf("work: got %v, want no error", err)
	}
}

// A copy of a closed index may be older than its bucket: it is not whole.
func TestCopyIsUnclean(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := openIndex(t, dir, disk.Options{})
	if err := fenceAndOpen(t.Context(), x, 1); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if y := openIndex(t, backup, disk.Options{}); y.Clean() {
		t.Error("got a clean index from a copy")
	}
	if y := openIndex(t, dir, disk.Options{}); !y.Clean() {
		t.Error("got an unclean index where it was copied from")
	}
}

// A damaged store is told with the way out.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := openIndex(t, dir, disk.Options{})
	if err := fenceAndOpen(t.Context(), x, 1); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "store", "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatal(manifests, err)
	}
	for _, m := range manifests {
		if err := os.WriteFile(m, []byte("damaged, all of it and for good"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the lock is given back
		if _, err := disk.OpenIndex(dir, disk.Options{}); err == nil || errors.Is(err, disk.ErrLocked) || !strings.Contains(err.Error(), "rebuilt from the bucket") {
			t.Fatalf("got %v, want an error that says what to do", err)
		}
	}
}

// A full disk refuses reservations, and nothing else.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	x := openIndex(t, t.TempDir(), disk.Options{MinFreeBytes: 1 << 62})
	if err := fenceAndOpen(t.Context(), x, 1); err != nil {
		t.Fatal(err)
	}
	s := engine.SegmentID{Epoch: 1, Writer: "aaaaaaaa", N: 1}
	_, err := x.PreCommit(t.Context(), engine.PreCommit{Epoch: 1, Segment: s, Runs: []engine.Reserve{{Catalog: "users", N: 1}}})
	if !errors.Is(err, engine.ErrUnavailable) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
	if _, err := x.Heartbeat(t.Context(), 1, "aaaaaaaa"); err != nil {
		t.Errorf("heartbeat: got %v, want no error", err)
	}
}
