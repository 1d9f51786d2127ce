//go:build unix

package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsForeground reports whether the file is a terminal and this process belongs
// to the terminal's foreground process group: a process of the background that
// reads from its terminal is stopped.
func IsForeground(file *os.File) bool {
	group, err := unix.IoctlGetInt(int(file.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
