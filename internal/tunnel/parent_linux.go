package tunnel

import (
	"os/exec"
	"syscall"
)

// endWithParent lets the kernel end ssh if this process is killed.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
