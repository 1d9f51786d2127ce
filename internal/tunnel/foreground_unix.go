//go:build unix

package tunnel

import (
	"os"

	"golang.org/x/sys/unix"
)

// inForeground reports whether ssh may prompt on the terminal: a process in the
// background is stopped as soon as it reads from it.
func inForeground() bool {
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
