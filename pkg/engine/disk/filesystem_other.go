//go:build !linux

package disk

// NetworkFS is not known here.
func NetworkFS(string) (name string, known bool) { return "", false }
