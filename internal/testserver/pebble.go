package testserver

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"oidc-publisher/internal/fake"

	"golang.org/x/net/dns/dnsmessage"
)

// PebbleServer is Let's Encrypt's small ACME authority for tests. It validates
// for real, at 127.0.0.1 whatever the name is, and refuses some nonces on
// purpose.
type PebbleServer struct {
	*Process
	// Directory is the ACME directory URL.
	Directory string
	// CAFile certifies the directory itself.
	CAFile string
	// HTTPPort and TLSPort are the ports at which it validates HTTP-01 and
	// TLS-ALPN-01.
	HTTPPort, TLSPort int

	management string
}

// PebbleOptions may be left empty.
type PebbleOptions struct {
	// Validity is how long a certificate lasts; pebble's default if 0.
	Validity time.Duration
	// RejectNonces is how many of a hundred good nonces are refused; 5 if 0.
	RejectNonces int
}

// Pebble starts pebble, and a name server that knows one address.
func Pebble(t testing.TB, options PebbleOptions) *PebbleServer {
	t.Helper()
	path, dir := Require(t, "pebble"), t.TempDir()
	address, management := fmt.Sprintf("127.0.0.1:%d", FreePort(t)), fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	p := &PebbleServer{
		Directory: "https://" + address + "/dir", CAFile: filepath.Join(dir, "ca.PEM"),
		HTTPPort: FreePort(t), TLSPort: FreePort(t), management: "https://" + management,
	}
	p.certify(t, dir)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": address, "managementListenAddress": management,
		"certificate": filepath.Join(dir, "tls.crt"), "privateKey": filepath.Join(dir, "tls.key"),
		"httpPort": p.HTTPPort, "tlsPort": p.TLSPort, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": int(options.Validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "config.json"), config)
	reject := options.RejectNonces
	if reject == 0 {
		reject = 5
	}
	p.Process = Start(t, Command{
		Name:  "pebble",
		Path:  path,
		Args:  []string{"-config", filepath.Join(dir, "config.json"), "-dnsserver", nameServer(t)},
		Env:   []string{"PEBBLE_VA_NOSLEEP=1", fmt.Sprintf("PEBBLE_WFE_NONCEREJECT=%d", reject)},
		Ready: HTTPReady(p.client(t), p.Directory),
	})
	return p
}

// certify gives the directory a certificate of a CA of its own.
func (p *PebbleServer) certify(t testing.TB, dir string) {
	t.Helper()
	ca, err := fake.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.Serving()
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := fake.EncodeCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.CAFile, ca.PEM)
	writeFile(t, filepath.Join(dir, "tls.crt"), chain)
	writeFile(t, filepath.Join(dir, "tls.key"), key)
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *PebbleServer) client(t testing.TB) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(p.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
}

// Roots are what the certificates that it issued lead to. They are new at each
// start.
func (p *PebbleServer) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	resp, err := p.client(t).Get(p.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(data) {
		t.Fatalf("pebble's root certificate: %v", err)
	}
	return roots
}

// nameServer answers every question for an IPv4 address with 127.0.0.1, and all
// others with nothing. It speaks TCP, which is what pebble asks by.
func nameServer(t testing.TB) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go answerNames(conn)
		}
	}()
	return listener.Addr().String()
}

// answerNames frames messages as RFC 1035 section 4.2.2 has it.
func answerNames(conn net.Conn) {
	defer conn.Close()
	for conn.SetDeadline(time.Now().Add(10*time.Second)) == nil {
		var length uint16
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		question := make([]byte, length)
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		reply, err := resolve(question)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func resolve(packet []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(packet); err != nil {
		return nil, err
	}
	message.Response, message.RecursionAvailable, message.Additionals = true, true, nil
	for _, q := range message.Questions {
		if q.Type == dnsmessage.TypeA {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			})
		}
	}
	return message.Pack()
}
