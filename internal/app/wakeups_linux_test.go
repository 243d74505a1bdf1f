package app

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tellSlack has the test's program tell GODEBUG and the slack of its threads, in place of
// testing: as "service", "serve" or "bench" ask for fewer wake-ups, or as a service that
// has removed its own file when it is "gone".
const tellSlack = "LAKE_TEST_TELL_SLACK"

func TestMain(m *testing.M) {
	if os.Getenv(tellSlack) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(tellSlack) == "gone" {
		if err := os.Remove(os.Args[0]); err != nil {
			fmt.Println(err)
		}
	}
	FewWakeUps(os.Getenv(tellSlack) != "bench", os.Getenv(tellSlack) != "serve")
	threads, err := os.ReadDir("/proc/self/task")
	fmt.Printf("%v %t %v %q\n", os.Args[1:], len(threads) > 1, err, os.Getenv("GODEBUG"))
	for range 4 { // on threads of their own
		slack := make(chan int)
		go func() {
			runtime.LockOSThread() // and not given back
			n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			if err != nil {
				n = -1
			}
			slack <- n
		}()
		fmt.Println(<-slack)
	}
}

// TestFewWakeUps: a process begins again with the slack, and a service with its monitor told,
// once and with its arguments, on every thread; what was chosen otherwise stays, and all of it
// where the process is told to change nothing or cannot begin again.
func TestFewWakeUps(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tell, env     string
		given, want   int
		debug, wanted string // GODEBUG
	}{
		{"service", "", kernelSlack, slack, "", monitor},
		{"service", "", kernelSlack, slack, "madvdontneed=1", "madvdontneed=1," + monitor},
		{"service", "", kernelSlack, slack, "schedtrace=0", "schedtrace=0"},
		{"service", "", 70_000, 70_000, "", monitor},
		{"service", "", 1_000_000, 1_000_000, "schedtrace=0", "schedtrace=0"},
		{"service", "0", kernelSlack, kernelSlack, "", ""},
		{"serve", "", kernelSlack, slack, "", ""},
		{"serve", "", kernelSlack, slack, "madvdontneed=1", "madvdontneed=1"},
		{"serve", "", 70_000, 70_000, "", ""},
		{"bench", "", kernelSlack, kernelSlack, "", monitor},
		{"bench", "", kernelSlack, kernelSlack, "schedtrace=0", "schedtrace=0"},
		{"bench", "0", kernelSlack, kernelSlack, "", ""},
		{"gone", "", kernelSlack, kernelSlack, "", ""},
		{"gone", "", kernelSlack, kernelSlack, "madvdontneed=1", "madvdontneed=1"},
	} {
		t.Run(fmt.Sprintf("%s, given %d, %q, told %q", c.tell, c.given, c.debug, c.env), func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(program, self, 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "one", "two words")
			cmd.Env = append(os.Environ(), tellSlack+"="+c.tell, "LAKE_EXEC_AGAIN="+c.env, "GODEBUG="+c.debug)
			// The child has the slack of the thread that begins it.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(c.given), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			out, err := cmd.Output() // the runtime may report on standard error, see monitor
			if rerr := unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0); rerr != nil {
				t.Fatal(rerr)
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := fmt.Sprintf("[one two words] true <nil> %q\n", c.wanted) + strings.Repeat(fmt.Sprintln(c.want), 4)
			if string(out) != want {
				t.Errorf("the process tells\n%s, not\n%s", out, want)
			}
		})
	}
}
