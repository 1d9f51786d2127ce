//go:build !linux

package testserver

import "syscall"

// endWithParent does nothing here: a child outlives a test that was killed.
func endWithParent() *syscall.SysProcAttr { return nil }
