package bench

import "syscall"

// childAttr lets the kernel kill the child when this program is gone, whatever
// ended it.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
