//go:build unix

package httpx

import "syscall"

const (
	connectionRefused  = syscall.ECONNREFUSED
	hostUnreachable    = syscall.EHOSTUNREACH
	networkUnreachable = syscall.ENETUNREACH
)
