package testserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"
)

// Kubeconfig is the content of a kubeconfig file with one context.
type Kubeconfig struct {
	// Server is the URL.
	Server string
	// CA are the trusted certificates in PEM, none for the system's.
	CA []byte
	// Token and TokenFile are ways to carry a bearer token.
	Token, TokenFile string
	// Certificate and Key are a client certificate in PEM.
	Certificate, Key []byte
	// TLSServerName is the name to verify instead of the server's.
	TLSServerName string
	// ProxyURL is a proxy on the way.
	ProxyURL string
	// Insecure switches the verification of the server off.
	Insecure bool
	// Context is the name of the one context, "test" if empty.
	Context string
	// Namespace is that of the context.
	Namespace string
}

// Write writes the file, readable by its owner alone. A kubeconfig may be
// JSON, which is YAML.
func (k Kubeconfig) Write(path string) error {
	name := k.Context
	if name == "" {
		name = "test"
	}
	cluster := map[string]any{"server": k.Server}
	user := map[string]any{}
	set := func(into map[string]any, key string, value any, given bool) {
		if given {
			into[key] = value
		}
	}
	set(cluster, "certificate-authority-data", k.CA, len(k.CA) > 0)
	set(cluster, "tls-server-name", k.TLSServerName, k.TLSServerName != "")
	set(cluster, "proxy-url", k.ProxyURL, k.ProxyURL != "")
	set(cluster, "insecure-skip-tls-verify", true, k.Insecure)
	context := map[string]any{"cluster": name, "user": name}
	set(context, "namespace", k.Namespace, k.Namespace != "")
	set(user, "token", k.Token, k.Token != "")
	set(user, "tokenFile", k.TokenFile, k.TokenFile != "")
	set(user, "client-certificate-data", k.Certificate, len(k.Certificate) > 0)
	set(user, "client-key-data", k.Key, len(k.Key) > 0)
	data, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": cluster}},
		"users":    []any{map[string]any{"name": name, "user": user}},
		"contexts": []any{map[string]any{"name": name, "context": context}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// authority is a cluster's CA.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
}

func newAuthority() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: "kubernetes"},
		NotBefore:    time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	return authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func newSerial() *big.Int {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return big.NewInt(time.Now().UnixNano())
	}
	return serial
}

// servingNames are those that kubeadm certifies, and the loopback address.
func servingNames() []string {
	return []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"}
}

// serving issues a server certificate.
func (a authority) serving(o EmbeddedOptions) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:    o.NotBefore, NotAfter: o.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	names := o.Names
	if len(names) == 0 {
		names = servingNames()
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return a.issue(template)
}

// client issues a client certificate for a user and its groups.
func (a authority) client(user string, groups ...string) (tls.Certificate, error) {
	return a.issue(&x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a authority) issue(template *x509.Certificate) (tls.Certificate, error) {
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// encodeCertificate returns certificate and key in PEM.
func encodeCertificate(c tls.Certificate) (certificate, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
