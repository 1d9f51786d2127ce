package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"oidc-publisher/discovery"
)

// maxTokenSize bounds in characters what is parsed. AWS takes 20,000.
const maxTokenSize = 64 << 10

// parsedToken is what a token says of itself, nothing of it proved.
type parsedToken struct {
	alg, kid string
	size     int
	jws      *jose.JSONWebSignature

	iss, sub      string
	aud           []string
	azp           string
	exp, nbf, iat time.Time // zero where the claim is missing
}

var errNotCompact = errors.New("is not three base64url parts with dots between them")

// parseToken takes a token apart. Its errors are fixed texts: none quotes the token.
func parseToken(t discovery.Token) (parsedToken, error) {
	if !t.Given() {
		return parsedToken{}, nil
	}
	raw := t.Reveal()
	p := parsedToken{size: len(raw)}
	switch parts := strings.Split(raw, "."); {
	case raw == "":
		return p, errors.New("is empty")
	case len(raw) > maxTokenSize:
		return p, fmt.Errorf("is longer than %d characters", maxTokenSize)
	case len(parts) != 3:
		return p, errNotCompact
	default:
		return p, p.read(raw, parts[0], parts[1])
	}
}

func (p *parsedToken) read(raw, header, payload string) error {
	h, err := jsonPart(header)
	if err != nil {
		return fmt.Errorf("header %w", err)
	}
	c, err := jsonPart(payload)
	if err != nil {
		return fmt.Errorf("payload %w", err)
	}
	if err := errors.Join(text(h, "alg", &p.alg), text(h, "kid", &p.kid), p.claims(c)); err != nil {
		return err
	}
	if _, ok := h["crit"]; ok {
		return errors.New("has critical header members, which relying parties do not know")
	}
	if !slices.Contains(algorithms(), p.alg) {
		return nil // tokenAlgorithm says so; there is no signature to look at
	}
	p.jws, err = jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(p.alg)})
	if err != nil {
		return errors.New("has a header that relying parties can't read")
	}
	return nil
}

func (p *parsedToken) claims(c map[string]json.RawMessage) error {
	return errors.Join(
		text(c, "iss", &p.iss), text(c, "sub", &p.sub), text(c, "azp", &p.azp), list(c, "aud", &p.aud),
		date(c, "exp", &p.exp), date(c, "nbf", &p.nbf), date(c, "iat", &p.iat))
}

func jsonPart(part string) (map[string]json.RawMessage, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("is not base64url")
	}
	var members map[string]json.RawMessage
	if !utf8.Valid(data) || json.Unmarshal(data, &members) != nil || members == nil {
		return nil, errors.New("is not a JSON object")
	}
	return members, nil
}

func text(members map[string]json.RawMessage, name string, to *string) error {
	raw, ok := members[name]
	if ok && (!bytes.HasPrefix(raw, []byte(`"`)) || json.Unmarshal(raw, to) != nil) {
		return fmt.Errorf("member %s is not a string", name)
	}
	return nil
}

// list reads aud, which is a string or a list of strings (RFC 7519 section 4.1.3).
func list(members map[string]json.RawMessage, name string, to *[]string) error {
	raw, ok := members[name]
	var one string
	switch {
	case !ok:
		return nil
	case bytes.HasPrefix(raw, []byte(`"`)) && json.Unmarshal(raw, &one) == nil:
		*to = []string{one}
		return nil
	case bytes.HasPrefix(raw, []byte(`[`)) && json.Unmarshal(raw, to) == nil:
		return nil
	default:
		return fmt.Errorf("member %s is neither a string nor a list of strings", name)
	}
}

// date reads seconds since 1970, perhaps with a fraction (RFC 7519 section 2).
func date(members map[string]json.RawMessage, name string, to *time.Time) error {
	raw, ok := members[name]
	if !ok {
		return nil
	}
	const year9999 = 253402300799
	var n *float64
	if json.Unmarshal(raw, &n) != nil || n == nil || math.Abs(*n) > year9999 {
		return fmt.Errorf("member %s is not a time in seconds", name)
	}
	whole, fraction := math.Modf(*n)
	*to = time.Unix(int64(whole), int64(fraction*1e9)).UTC()
	return nil
}
