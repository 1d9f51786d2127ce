package httpx

import "golang.org/x/sys/windows"

// The constants of package syscall with the names of Unix are never returned by
// Windows.
const (
	connectionRefused  = windows.WSAECONNREFUSED
	hostUnreachable    = windows.WSAEHOSTUNREACH
	networkUnreachable = windows.WSAENETUNREACH
)
