package testserver

import "syscall"

// endWithParent makes the kernel kill a child that outlives a killed test.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
