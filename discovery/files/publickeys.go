package files

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// PublicKeys reads PEM files as kube-apiserver's --service-account-key-file
// accepts them, several blocks in one file included: PKIX public keys, PKCS #1
// RSA public keys (which only this tool accepts) and certificates, with RSA or
// the curves P-256, P-384 and P-521. A key that is given twice is used once. The
// documents are byte for byte those that an API server with these flags will
// serve, except jwks_uri, which is the issuer's own.
//
// The API server also reads private keys. This tool refuses them.
func PublicKeys(paths []string, issuer discovery.Issuer) Source {
	return func() (discovery.Snapshot, error) { return readPublicKeys(paths, issuer) }
}

func readPublicKeys(paths []string, issuer discovery.Issuer) (discovery.Snapshot, error) {
	if _, err := discovery.ParseIssuer(string(issuer)); err != nil {
		return discovery.Snapshot{}, fmt.Errorf("public keys alone have no issuer: set --issuer to the value of --service-account-issuer: %w", err)
	}
	if len(paths) == 0 {
		return discovery.Snapshot{}, errors.New("no public key file was named")
	}
	var r reader
	for _, path := range paths {
		r.file(path)
	}
	if len(r.faults) > 0 {
		return discovery.Snapshot{}, errors.Join(r.faults...)
	}
	s, err := render(r.set, issuer)
	s.Warnings = r.warnings
	return s, err
}

// document has the members of kube-apiserver's, in its order
// (pkg/serviceaccount/openidmetadata.go).
type document struct {
	Issuer        discovery.Issuer `json:"issuer"`
	JWKSURI       string           `json:"jwks_uri"`
	ResponseTypes []string         `json:"response_types_supported"`
	SubjectTypes  []string         `json:"subject_types_supported"`
	SigningAlgs   []string         `json:"id_token_signing_alg_values_supported"`
}

func render(set jose.JSONWebKeySet, issuer discovery.Issuer) (discovery.Snapshot, error) {
	d := document{Issuer: issuer, JWKSURI: issuer.JWKSURI(), ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}}
	for _, key := range set.Keys {
		d.SigningAlgs = append(d.SigningAlgs, key.Algorithm)
	}
	slices.Sort(d.SigningAlgs)
	d.SigningAlgs = slices.Compact(d.SigningAlgs)
	documentJSON, err := json.Marshal(d)
	if err != nil {
		return discovery.Snapshot{}, err
	}
	keysJSON, err := json.Marshal(set)
	if err != nil {
		return discovery.Snapshot{}, err
	}
	var s discovery.Snapshot
	if s.Document, err = discovery.ParseDocument(documentJSON); err != nil {
		return discovery.Snapshot{}, err
	}
	if s.Keys, err = discovery.ParseKeySet(keysJSON); err != nil {
		return discovery.Snapshot{}, fmt.Errorf("public keys: %w", err)
	}
	return s, nil
}

// reader gathers the keys of all files, each once, and all faults.
type reader struct {
	set      jose.JSONWebKeySet
	faults   []error
	warnings []string
}

func (r *reader) file(path string) {
	data, err := readFile(path)
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("public key: %w", err))
		return
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		r.fault(errPrivate, path)
		return
	}
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		r.block(path, blocks, block)
	}
	if begun := bytes.Count(data, []byte("-----BEGIN ")); begun != blocks {
		r.fault(fmt.Errorf("%d PEM blocks begin and %d can be read: the file is damaged or incomplete", begun, blocks), path)
	} else if len(bytes.TrimSpace(data)) == 0 {
		r.fault(errors.New("is empty: it must hold a PEM block PUBLIC KEY"), path)
	} else if blocks == 0 {
		r.fault(fmt.Errorf("is not PEM: it must be a text with -----BEGIN PUBLIC KEY-----; convert DER with: openssl pkey -pubin -inform DER -in %s", path), path)
	}
}

func (r *reader) block(path string, number int, block *pem.Block) {
	key, err := parseBlock(block)
	if err != nil {
		r.fault(fmt.Errorf("block %d (%s) %w", number, httpx.Clip(block.Type), err), path)
		return
	}
	if _, err := x509.ParsePKCS1PublicKey(block.Bytes); err == nil {
		r.warnings = append(r.warnings, fmt.Sprintf("%s: block %d is a PKCS #1 key, which kube-apiserver does not read: "+
			"give that one the output of: openssl rsa -RSAPublicKey_in -in %s -pubout", path, number, path))
	}
	known := func(other jose.JSONWebKey) bool { return other.KeyID == key.KeyID }
	if !slices.ContainsFunc(r.set.Keys, known) {
		r.set.Keys = append(r.set.Keys, *key)
	}
}

func (r *reader) fault(err error, path string) {
	if errors.Is(err, errPrivate) {
		err = fmt.Errorf("%w, which this tool must not read: extract the public key with: openssl pkey -in %s -pubout -out sa.pub", err, path)
	}
	r.faults = append(r.faults, fmt.Errorf("%s: %w", path, err))
}

// errPrivate marks a block that is a private key, whatever its label.
var errPrivate = errors.New("holds a private key")

func parseBlock(block *pem.Block) (*jose.JSONWebKey, error) {
	var public any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		// openssl never writes PKIX under this name, but the API server, which
		// checks only the content, would accept it.
		if public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		}
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = certificate.PublicKey
		}
	default:
		return nil, errors.New("is not a public key: PUBLIC KEY, RSA PUBLIC KEY and CERTIFICATE are accepted")
	}
	switch {
	case err != nil && holdsPrivateKey(block.Bytes):
		return nil, errPrivate
	case err != nil:
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	return jwk(public)
}

// holdsPrivateKey recognises a private key under a wrong label.
func holdsPrivateKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}

// jwk renders a key as kube-apiserver does, the key ID included: the SHA-256 of
// its PKIX form (pkg/serviceaccount/jwt.go, keyIDFromPublicKey).
func jwk(public any) (*jose.JSONWebKey, error) {
	var algorithm jose.SignatureAlgorithm
	switch key := public.(type) {
	case *rsa.PublicKey:
		algorithm = jose.RS256
	case *ecdsa.PublicKey:
		curve := key.Curve.Params().Name
		algorithm = map[string]jose.SignatureAlgorithm{"P-256": jose.ES256, "P-384": jose.ES384, "P-521": jose.ES512}[curve]
		if algorithm == "" {
			return nil, fmt.Errorf("is an EC key of the curve %s: the API server accepts P-256, P-384 and P-521", curve)
		}
	default:
		return nil, errors.New("is of another type, such as Ed25519: the API server accepts RSA and EC keys")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("can't be written: %w", err)
	}
	sum := sha256.Sum256(der)
	return &jose.JSONWebKey{
		Key:       public,
		KeyID:     base64.RawURLEncoding.EncodeToString(sum[:]),
		Algorithm: string(algorithm),
		Use:       "sig",
	}, nil
}
