//go:build !linux

package app

// CoarseTimers is for Linux.
func CoarseTimers() {}
