package testenv

import "syscall"

// childAttr lets the kernel kill the child when the test binary is gone, whatever
// ended it: a server must not outlive a test that was killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
