package cli

import "os"

// IsForeground reports whether the file is a terminal. Windows has no process
// groups in the background of one.
func IsForeground(file *os.File) bool { return IsTerminal(file) }
