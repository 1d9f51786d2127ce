//go:build !unix

package tunnel

// inForeground is false: this system has no foreground process group.
func inForeground() bool { return false }
