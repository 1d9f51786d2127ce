//go:build !linux

package tunnel

import "os/exec"

// endWithParent can do nothing: only Linux ends a child with its parent. ssh with
// a session mostly ends as its standard input does; one that only forwards has
// to be ended by hand if this process is killed.
func endWithParent(*exec.Cmd) {}
