package httpx

import "golang.org/x/sys/windows"

// The constants of package syscall with the names of Unix are never returned by
// Windows.
const (
	errConnectionRefused  = windows.WSAECONNREFUSED
	errHostUnreachable    = windows.WSAEHOSTUNREACH
	errNetworkUnreachable = windows.WSAENETUNREACH
)
