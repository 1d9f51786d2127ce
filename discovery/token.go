package discovery

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxTokenSize bounds a token in characters. AWS accepts 20,000.
const maxTokenSize = 64 << 10

// Token is a service account token, and a Secret.
type Token struct{ Secret }

// NewToken takes a token as a file holds it, surrounding white space included.
func NewToken(raw string) Token { return Token{NewSecret(strings.TrimSpace(raw))} }

// Claims are the header and the claims of a token. They are not verified, and
// all of them may be untrusted text.
type Claims struct {
	// Algorithm and KeyID are alg and kid of the header.
	Algorithm, KeyID string

	// Issuer, Subject and AuthorizedParty are iss, sub and azp.
	Issuer, Subject, AuthorizedParty string
	// Audience is aud, which may be one string or a list.
	Audience jwt.Audience
	// Expiry, NotBefore and IssuedAt are exp, nbf and iat, zero where the
	// claim is missing.
	Expiry, NotBefore, IssuedAt time.Time
}

// Claims reads the token without verifying it. The error never quotes the
// token. What could be read is returned with the error.
func (t Token) Claims() (Claims, error) {
	raw := t.Reveal()
	parts := strings.Split(raw, ".")
	switch {
	case raw == "":
		return Claims{}, errors.New("is empty")
	case len(raw) > maxTokenSize:
		return Claims{}, fmt.Errorf("is longer than %d characters", maxTokenSize)
	case len(parts) != 3 || strings.ContainsAny(raw, "\r\n"):
		return Claims{}, errors.New("is not three base64url parts with dots between them")
	}
	header, err := tokenPart(parts[0])
	if err != nil {
		return Claims{}, fmt.Errorf("header %w", err)
	}
	payload, err := tokenPart(parts[1])
	if err != nil {
		return Claims{}, fmt.Errorf("payload %w", err)
	}
	const text = "not a string"
	var c Claims
	err = errors.Join(
		header.read("alg", text, &c.Algorithm), header.read("kid", text, &c.KeyID),
		payload.read("iss", text, &c.Issuer), payload.read("sub", text, &c.Subject), payload.read("azp", text, &c.AuthorizedParty),
		payload.read("aud", "neither a string nor a list of strings", &c.Audience),
		payload.time("exp", &c.Expiry), payload.time("nbf", &c.NotBefore), payload.time("iat", &c.IssuedAt))
	if _, critical := header["crit"]; critical {
		err = errors.Join(err, errors.New("has critical header members, which relying parties do not know"))
	}
	if _, unreadable := t.parse(c.Algorithm); err == nil {
		err = unreadable
	}
	return c, err
}

// Verify checks the signature, which must be of this algorithm. The key's
// Public must not be nil.
func (t Token) Verify(key Key, algorithm string) error {
	signed, err := t.parse(algorithm)
	if err != nil {
		return err
	}
	_, err = signed.Verify(key.Public())
	return err
}

func (t Token) parse(algorithm string) (*jose.JSONWebSignature, error) {
	signed, err := jose.ParseSignedCompact(t.Reveal(), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
	if err != nil { // its text may quote the token
		return nil, errors.New("has a header or signature that relying parties can't read")
	}
	return signed, nil
}

// tokenMembers are the members of a token's header or payload.
type tokenMembers map[string]json.RawMessage

func tokenPart(part string) (tokenMembers, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("is not base64url")
	}
	var members tokenMembers
	if !utf8.Valid(data) || json.Unmarshal(data, &members) != nil || members == nil {
		return nil, errors.New("is not a JSON object")
	}
	return members, nil
}

// read fails with "member NAME is" and what it is.
func (m tokenMembers) read(name, is string, to any) error {
	raw, ok := m[name]
	if ok && (string(raw) == "null" || json.Unmarshal(raw, to) != nil) {
		return fmt.Errorf("member %s is %s", name, is)
	}
	return nil
}

// time reads seconds since 1970, perhaps with a fraction (RFC 7519 section 2).
func (m tokenMembers) time(name string, to *time.Time) error {
	const year9999, is = 253402300799, "not a time in seconds"
	var n float64
	if _, ok := m[name]; !ok {
		return nil
	}
	if err := m.read(name, is, &n); err != nil {
		return err
	}
	if math.Abs(n) > year9999 {
		return fmt.Errorf("member %s is %s", name, is)
	}
	whole, fraction := math.Modf(n)
	*to = time.Unix(int64(whole), int64(fraction*1e9)).UTC()
	return nil
}
