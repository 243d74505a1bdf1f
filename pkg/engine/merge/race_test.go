//go:build race

package merge

// The race detector makes everything several times as slow.
const underRace = true
