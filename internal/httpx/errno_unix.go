//go:build unix

package httpx

import "syscall"

const (
	errConnectionRefused  = syscall.ECONNREFUSED
	errHostUnreachable    = syscall.EHOSTUNREACH
	errNetworkUnreachable = syscall.ENETUNREACH
)
