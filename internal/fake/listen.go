package fake

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
)

// listen listens at an address. It replaces the port 0 by one below the range
// from which kernels serve outgoing connections, so that the port is still free
// after a stop, and apart from those of internal/testserver.
func listen(address string) (net.Listener, error) {
	host, found := strings.CutSuffix(address, ":0")
	if !found {
		return net.Listen("tcp", address)
	}
	var listener net.Listener
	var err error
	for range 100 {
		if listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", host, 2000+rand.IntN(10000))); err == nil {
			return listener, nil
		}
	}
	return nil, err
}
