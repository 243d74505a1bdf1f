package testenv

import "testing"

// Program runs a program of this repository, or any other, as a process of its
// own, and waits until ready says that it answers. Its environment is the
// test's (use t.Setenv before).
func Program(tb testing.TB, ready func() error, path string, args ...string) *Process {
	tb.Helper()
	p := newProcess(tb, path, args, ready)
	p.Start()
	return p
}

// Tool finds an installed program, in the repository's bin directory or in
// PATH. One that is missing skips the test, or fails it with
// LAKE_TEST_REQUIRE=1, naming the command that installs it.
func Tool(tb testing.TB, name, install string) string {
	tb.Helper()
	path := tool(tb, "", name)
	if path == "" {
		missing(tb, name, install)
	}
	return path
}
