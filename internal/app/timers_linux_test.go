package app

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tellSlack has the test's program tell the slack of all its threads, in place of testing.
const tellSlack = "LAKE_TEST_TELL_SLACK"

func TestMain(m *testing.M) {
	if os.Getenv(tellSlack) == "" {
		os.Exit(m.Run())
	}
	CoarseTimers()
	threads, err := os.ReadDir("/proc/self/task")
	fmt.Println(os.Args[1:], len(threads) > 1, err)
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

// TestCoarseTimers: a process begins again with the slack, once and with its arguments, on
// every thread; one that was given another slack, or is told to, keeps what it has.
func TestCoarseTimers(t *testing.T) {
	for _, c := range []struct {
		env         string
		given, want int
	}{
		{"", kernelSlack, slack},
		{"0", kernelSlack, kernelSlack},
		{"", 70_000, 70_000},
		{"", 1_000_000, 1_000_000},
	} {
		t.Run(fmt.Sprintf("given %d told %q", c.given, c.env), func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, "one", "two words")
			cmd.Env = append(os.Environ(), tellSlack+"=1", "LAKE_TIMER_SLACK="+c.env)
			// The child has the slack of the thread that begins it.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(c.given), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			out, err := cmd.CombinedOutput()
			if rerr := unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0); rerr != nil {
				t.Fatal(rerr)
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := "[one two words] true <nil>\n" + strings.Repeat(fmt.Sprintln(c.want), 4)
			if string(out) != want {
				t.Errorf("the process tells\n%s, not\n%s", out, want)
			}
		})
	}
}
