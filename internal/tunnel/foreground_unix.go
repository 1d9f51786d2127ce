//go:build unix

package tunnel

import (
	"os"

	"golang.org/x/sys/unix"
)

// inForeground reports whether ssh may ask on the terminal: one in the background
// would be stopped as soon as it reads.
func inForeground() bool {
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
