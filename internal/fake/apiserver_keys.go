package fake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// SigningKey is a signing key with the ID that kube-apiserver gives it.
type SigningKey struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
}

// NewSigningKey returns a new key pair for RS256, ES256, ES384 or ES512.
func NewSigningKey(algorithm string) (SigningKey, error) {
	private, err := newPrivateKey(algorithm)
	if err != nil {
		return SigningKey{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return SigningKey{}, err
	}
	if algorithm == "" {
		algorithm = "RS256"
	}
	sum := sha256.Sum256(der)
	return SigningKey{base64.RawURLEncoding.EncodeToString(sum[:]), jose.SignatureAlgorithm(algorithm), private}, nil
}

func newPrivateKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "", "RS256":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		return nil, fmt.Errorf("kube-apiserver does not sign with %q", algorithm)
	}
}

// AddKey adds a key to those that are published and returns its ID: the first
// step of an official rotation. Tokens are signed as before.
func (e *APIServer) AddKey(algorithm string) (string, error) {
	key, err := NewSigningKey(algorithm)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys = append(e.keys, key)
	return key.ID, nil
}

// SignWith makes the published key of that ID the signing key: the second step.
func (e *APIServer) SignWith(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range e.keys {
		if key.ID == id {
			e.signer = key
			return nil
		}
	}
	return fmt.Errorf("there is no key %q", id)
}

// RemoveKey takes the key of that ID out of those that are published: the last
// step. The signing key may be removed too, which a real server also takes
// without complaint.
func (e *APIServer) RemoveKey(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys = slices.DeleteFunc(e.keys, func(key SigningKey) bool { return key.ID == id })
}

// Rotate is an official rotation without its last step: a new key is published
// beside the old and signs. It returns the new key's ID.
func (e *APIServer) Rotate(algorithm string) (string, error) {
	id, err := e.AddKey(algorithm)
	if err != nil {
		return "", err
	}
	return id, e.SignWith(id)
}

// Replace is the blunt rotation: a new key takes the place of all others. It
// returns the new key's ID.
func (e *APIServer) Replace(algorithm string) (string, error) {
	key, err := NewSigningKey(algorithm)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys, e.signer = []SigningKey{key}, key
	return key.ID, nil
}

// ShareKeys makes this server publish and sign with what another one does.
func (e *APIServer) ShareKeys(other *APIServer) {
	other.mu.Lock()
	keys, signer := slices.Clone(other.keys), other.signer
	other.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys, e.signer = keys, signer
}

// KeyIDs are the IDs of the published keys, in order.
func (e *APIServer) KeyIDs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := make([]string, len(e.keys))
	for i, key := range e.keys {
		ids[i] = key.ID
	}
	return ids
}

// SigningKeyID is the ID of the key that signs.
func (e *APIServer) SigningKeyID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.signer.ID
}

func (e *APIServer) jwks() ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range e.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: key.Private.Public(), KeyID: key.ID, Algorithm: string(key.Algorithm), Use: "sig",
		})
	}
	return json.Marshal(set)
}

func (e *APIServer) document() ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var algorithms []string
	for _, key := range e.keys {
		algorithms = append(algorithms, string(key.Algorithm))
	}
	slices.Sort(algorithms)
	_, port, _ := net.SplitHostPort(e.address)
	return json.Marshal(struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{
		// The address can't be reached, like that of a node from outside.
		e.issuer, "https://192.0.2.1:" + port + "/openid/v1/jwks",
		[]string{"id_token"}, []string{"public"}, slices.Compact(algorithms),
	})
}

// MintToken signs a token as TokenRequest does, without asking for rights.
func (e *APIServer) MintToken(namespace, name, audience string, expiry time.Duration) (string, error) {
	e.cluster.mu.Lock()
	uid, found := e.cluster.accounts[namespace+"/"+name]
	e.cluster.mu.Unlock()
	if !found {
		return "", fmt.Errorf("there is no service account %s/%s", namespace, name)
	}
	return e.sign(account{namespace, name, uid}, []string{audience}, time.Now(), expiry)
}

type account struct{ namespace, name, uid string }

func (e *APIServer) sign(a account, audiences []string, now time.Time, expiry time.Duration) (string, error) {
	e.mu.Lock()
	key, issuer := e.signer, e.issuer
	e.mu.Unlock()
	if key.Private == nil {
		return "", errors.New("there is no signing key")
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: key.Algorithm,
		Key:       jose.JSONWebKey{Key: key.Private, KeyID: key.ID, Algorithm: string(key.Algorithm), Use: "sig"},
	}, nil)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(map[string]any{
		"aud": audiences,
		"exp": now.Add(expiry).Unix(),
		"iat": now.Unix(),
		"iss": issuer,
		"jti": newUID(),
		"kubernetes.io": map[string]any{
			"namespace":      a.namespace,
			"serviceaccount": map[string]any{"name": a.name, "uid": a.uid},
		},
		"nbf": now.Unix(),
		"sub": "system:serviceaccount:" + a.namespace + ":" + a.name,
	})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// newUID returns a random UUID (RFC 9562 version 4).
func newUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
