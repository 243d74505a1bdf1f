//go:build !linux

package bench

import (
	"os"
	"time"
)

// syncData makes what was written durable.
func syncData(f *os.File) error { return f.Sync() }

// ownCPU is not known here.
func ownCPU() (time.Duration, bool) { return 0, false }
