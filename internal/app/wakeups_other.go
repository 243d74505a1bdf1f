//go:build !linux

package app

// FewWakeUps is for Linux.
func FewWakeUps(bool, bool) {}
