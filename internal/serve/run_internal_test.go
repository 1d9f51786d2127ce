package serve

import (
	"net"
	"testing"
)

// TestLocalTarget: ssh connects to a listener at an address that reaches it.
func TestLocalTarget(t *testing.T) {
	for listening, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", "[::1]:8080": "[::1]:8080", "192.0.2.1:443": "192.0.2.1:443",
		"0.0.0.0:8080": "localhost:8080", "[::]:8080": "localhost:8080",
	} {
		address, err := net.ResolveTCPAddr("tcp", listening)
		if err != nil {
			t.Fatal(err)
		}
		if got := localTarget(address); got != want {
			t.Errorf("%s: %s, want %s", listening, got, want)
		}
	}
}
