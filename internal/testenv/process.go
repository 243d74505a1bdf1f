package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const stopTimeout = 20 * time.Second

// Process is a server as a process of its own. Its methods fail the test that
// started it; they must be called from the test's own goroutine, one at a time.
// When that test ends the process is killed, and what it printed last is shown
// if the test failed.
type Process struct {
	name  string
	args  []string
	ready func() error // nil once the server answers, and answers as this process

	tb  testing.TB
	out tail

	cmd  *exec.Cmd     // nil while there is none
	done chan struct{} // closed when cmd has been waited for
}

// newProcess describes a server; Start runs it.
func newProcess(tb testing.TB, name string, args []string, ready func() error) *Process {
	p := &Process{name: name, args: args, ready: ready, tb: tb}
	tb.Cleanup(func() {
		p.kill()
		if tb.Failed() {
			tb.Logf("%s printed last:\n%s", p.name, p.Output())
		}
	})
	return p
}

// Start runs the process and waits until it answers.
func (p *Process) Start() {
	p.tb.Helper()
	if err := p.start(); err != nil {
		p.tb.Fatalf("start %s: %v\n%s", p.name, err, p.Output())
	}
}

// start is Start with an error, so that a lost race for a port can be run again.
func (p *Process) start() error {
	if err := p.spawn(); err != nil {
		return err
	}
	var err error
	ok := poll(startTimeout, func() bool {
		err = p.ready()
		return err == nil || !p.Running()
	})
	switch {
	case ok && err == nil:
		return nil
	case !p.Running():
		p.kill()
		return errors.New("it ended at once")
	}
	p.kill()
	return fmt.Errorf("no answer after %v: %w", startTimeout, err)
}

// Spawn runs the process and does not wait until it answers: for one that is
// started while what it stands on is away.
func (p *Process) Spawn() {
	p.tb.Helper()
	if err := p.spawn(); err != nil {
		p.tb.Fatalf("start %s: %v", p.name, err)
	}
}

// Answers asks the process whether it answers now; nil when it does.
func (p *Process) Answers() error { return p.ready() }

func (p *Process) spawn() error {
	if p.cmd != nil {
		return fmt.Errorf("it runs already as process %d", p.Pid())
	}
	cmd := exec.Command(p.name, p.args...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = childAttr()
	started, done := make(chan error), make(chan struct{})
	go func() {
		// On Linux the child dies with the thread that began it, which takes it along
		// when the test binary is killed. So the thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended shows in what it printed
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.done = cmd, done
	return nil
}

// Stop asks the process to end (SIGTERM), as an operator would, and waits for it.
// A process that has not ended after twenty seconds fails the test. (versitygw
// takes ten while clients hold idle connections: Kill it where that is no matter.)
func (p *Process) Stop() {
	p.tb.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a paused one would not notice
	select {
	case <-p.done:
		p.cmd = nil
	case <-time.After(stopTimeout):
		p.kill()
		p.tb.Fatalf("stop %s: still there %v after SIGTERM", p.name, stopTimeout)
	}
}

// Kill ends the process without a chance to tidy up (SIGKILL), as a crash does.
func (p *Process) Kill() { p.kill() }

func (p *Process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

// Restart is Stop, then Start with the same port and data.
func (p *Process) Restart() {
	p.tb.Helper()
	p.Stop()
	p.Start()
}

// Pause freezes the process (SIGSTOP): its connections stay open, nothing answers.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	p.tb.Helper()
	if p.cmd == nil {
		p.tb.Fatalf("signal %v to %s: it does not run", s, p.name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatalf("signal %v to %s: %v", s, p.name, err)
	}
}

// Pid is the process's id, 0 while there is none.
func (p *Process) Pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running says whether the process was started and has not ended.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Output is the end of what the process printed, over all its starts.
func (p *Process) Output() string { return p.out.String() }

// retryPorts runs start, which picks new ports each time, until one attempt wins
// them: between FreePort and the server's own listen another process can be faster.
func retryPorts(tb testing.TB, name string, start func() (*Process, error)) {
	tb.Helper()
	var errs []string
	for range 5 {
		p, err := start()
		if err == nil {
			return
		}
		errs = append(errs, err.Error()+"\n"+p.Output())
		if !strings.Contains(strings.ToLower(p.Output()), "address already in use") {
			break
		}
	}
	tb.Fatalf("start %s: %s", name, strings.Join(errs, "\n"))
}

// tail keeps the last 16 KiB written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	const keep = 16 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if over := t.buf.Len() - keep; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
