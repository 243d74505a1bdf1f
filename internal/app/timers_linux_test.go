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

// tellSlack has the test's program tell the slack of its threads, in place of testing;
// when it is "gone", after it has removed its own file.
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
// every thread; one that was given another slack, is told to, or cannot begin again keeps
// what it has.
func TestCoarseTimers(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tell, env   string
		given, want int
	}{
		{"all", "", kernelSlack, slack},
		{"all", "0", kernelSlack, kernelSlack},
		{"gone", "", kernelSlack, kernelSlack},
		{"all", "", 70_000, 70_000},
		{"all", "", 1_000_000, 1_000_000},
	} {
		t.Run(fmt.Sprintf("%s, given %d, told %q", c.tell, c.given, c.env), func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(program, self, 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "one", "two words")
			cmd.Env = append(os.Environ(), tellSlack+"="+c.tell, "LAKE_TIMER_SLACK="+c.env)
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
