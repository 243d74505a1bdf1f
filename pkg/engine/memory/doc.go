// Package memory holds the reference implementations of what a lake needs from
// outside: the index and the bucket, as plain maps under one mutex.
//
// They are meant to be read beside the contracts in package engine and to be
// obviously right rather than fast: other adapters are compared with them
// operation by operation, and the simulator runs the engine on them. They keep
// everything in memory and lose it with the process.
package memory
