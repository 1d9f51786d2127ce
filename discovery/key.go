package discovery

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// minRSABits is the least modulus size that RFC 7518 section 3.3 allows.
const minRSABits = 2048

// Key is one valid public key. It keeps its bytes.
type Key struct {
	// ID is the kid, copied and never computed: an external signer (KEP-740)
	// chooses its own.
	ID string
	// Type is the kty: RSA, EC, OKP or AKP.
	Type string
	// Algorithm and Use are alg and use, empty where the key has none.
	Algorithm string
	Use       string
	// Members are the names of all members, in order.
	Members []string
	// Bits is the modulus size of an RSA key, 0 for others.
	Bits int
	// Thumbprint is the base64url SHA-256 of the key material (RFC 7638).
	Thumbprint string

	raw json.RawMessage
}

// Bytes returns the JWK as it was parsed.
func (k Key) Bytes() []byte { return append([]byte(nil), k.raw...) }

// Public returns the key for checking a signature, or nil for a type that the
// Go standard library can't verify (AKP).
func (k Key) Public() crypto.PublicKey {
	var jwk jose.JSONWebKey
	if k.Type == "AKP" || jwk.UnmarshalJSON(k.raw) != nil {
		return nil
	}
	return jwk.Key
}

// KeyError is a fault of one key in a set.
type KeyError struct {
	// Index is the key's place in the set, from 0.
	Index int
	// KeyID is the kid, empty where the key has none.
	KeyID string
	// Reason is what is wrong with the key.
	Reason string
}

func (e *KeyError) Error() string {
	if e.KeyID == "" {
		return fmt.Sprintf("key number %d (no key ID): %s", e.Index+1, e.Reason)
	}
	return fmt.Sprintf("key %q: %s", clip(e.KeyID), e.Reason)
}

// errUnknownType marks a key that is left out rather than refused.
var errUnknownType = errors.New("unknown key type")

// parseKey validates one JWK. It returns what could be read of the key, and all
// its faults. A fault that wraps errUnknownType is the only one.
func parseKey(raw json.RawMessage) (Key, []error) {
	members, err := parseObject(raw)
	if err != nil {
		return Key{}, []error{err}
	}
	k := Key{raw: append(json.RawMessage(nil), raw...)}
	for _, m := range members {
		k.Members = append(k.Members, m.name)
	}
	var faults []error
	if k.Type, err = stringMember(raw, members, "kty"); err != nil {
		faults = append(faults, err)
	}
	if k.ID, err = stringMember(raw, members, "kid"); err != nil {
		faults = append(faults, err)
	}
	k.Algorithm, _ = stringMember(raw, members, "alg")
	k.Use, _ = stringMember(raw, members, "use")
	faults = append(faults, k.secrets()...)
	if len(faults) > 0 {
		return k, faults
	}
	if err := k.checkMaterial(); err != nil {
		return k, []error{err}
	}
	return k, nil
}

// secrets reports symmetric keys and private members, whatever the type.
func (k Key) secrets() []error {
	var faults []error
	if k.Type == "oct" {
		faults = append(faults, errors.New("is a symmetric key (kty oct): anyone who reads it can forge tokens"))
	}
	var private []string
	for _, name := range k.Members {
		if isPrivateMember(name) {
			private = append(private, name)
		}
	}
	if len(private) > 0 {
		faults = append(faults, fmt.Errorf("is a private key: it has the member %s", strings.Join(private, ", ")))
	} else if containsPrivateKey(k.raw) {
		faults = append(faults, errors.New("holds private key material in one of its members"))
	}
	if alg := k.Algorithm; alg == "none" || strings.HasPrefix(alg, "HS") {
		faults = append(faults, fmt.Errorf("names the algorithm %q, which can't be verified with a public key", clip(alg)))
	}
	return faults
}

func (k *Key) checkMaterial() error {
	switch k.Type {
	case "RSA", "EC", "OKP":
		return k.checkJOSE()
	case "AKP":
		return k.checkAKP()
	default:
		return fmt.Errorf("%w %q", errUnknownType, clip(k.Type))
	}
}

func (k *Key) checkJOSE() error {
	if crv := k.text("crv"); k.Type == "OKP" && crv != "Ed25519" {
		return fmt.Errorf("%w %q with curve %q", errUnknownType, clip(k.Type), clip(crv))
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(k.raw); err != nil {
		return fmt.Errorf("is not a valid %s key: a member is missing or malformed, or the point is not on its curve", k.Type)
	}
	switch public := jwk.Key.(type) {
	case *rsa.PublicKey:
		k.Bits = public.N.BitLen()
		if k.Bits < minRSABits {
			return fmt.Errorf("is an RSA key of %d bits, and at least %d are needed", k.Bits, minRSABits)
		}
		if public.E < 3 || public.E%2 == 0 {
			return fmt.Errorf("is an RSA key with the unusable exponent %d", public.E)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("is not a public %s key", k.Type)
	}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("has no thumbprint: it is not a valid %s key", k.Type)
	}
	k.Thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return nil
}

// mldsaSizes are the lengths in bytes of ML-DSA public keys (FIPS 204 table 2)
// by the algorithm names of RFC 9964.
var mldsaSizes = map[string]int{"ML-DSA-44": 1312, "ML-DSA-65": 1952, "ML-DSA-87": 2592}

// checkAKP reads RFC 9964 keys by hand: go-jose can do it only where the Go
// standard library has ML-DSA.
func (k *Key) checkAKP() error {
	size, known := mldsaSizes[k.Algorithm]
	if !known {
		return fmt.Errorf("%w %q with algorithm %q", errUnknownType, clip(k.Type), clip(k.Algorithm))
	}
	pub, err := base64.RawURLEncoding.Strict().DecodeString(k.text("pub"))
	if err != nil || len(pub) != size {
		return fmt.Errorf("is not a valid %s key: its member pub must be %d bytes in base64url", k.Algorithm, size)
	}
	canonical := fmt.Sprintf(`{"alg":"%s","kty":"AKP","pub":"%s"}`, k.Algorithm, k.text("pub"))
	sum := sha256.Sum256([]byte(canonical))
	k.Thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	return nil
}

// text returns the string value of a member, or "".
func (k Key) text(name string) string {
	if !slices.Contains(k.Members, name) {
		return ""
	}
	members, err := parseObject(k.raw)
	if err != nil {
		return ""
	}
	value, _ := stringMember(k.raw, members, name)
	return value
}
