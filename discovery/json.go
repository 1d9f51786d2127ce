package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxSize is the largest document accepted, in bytes. A JWKS of 100 RSA
	// keys is about 50 kB.
	MaxSize = 1 << 20
	// MaxKeys is the largest key set accepted. AWS refuses more than 100 RSA
	// keys and Microsoft Entra stores only the first 100.
	MaxKeys = 100

	maxDepth = 16
)

// member is one name and value of a JSON object; the value is raw[start:end].
type member struct {
	name       string
	start, end int
}

// objectMembers checks that data is one strict, bounded JSON object and
// returns its own members in order. JSON as Go reads it is laxer than what
// relying parties accept, and a second "issuer" or "d" hidden behind the first
// would be read differently by each, so duplicate names are refused at any
// depth. Names that differ by case alone count as the same: encoding/json, and
// with it go-oidc, takes "Issuer" for "issuer".
func objectMembers(data []byte) ([]member, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("is larger than %d bytes", MaxSize)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("is not valid UTF-8")
	}
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, errors.New("is not a JSON object")
	}
	if !json.Valid(data) {
		return nil, errors.New("is not valid JSON")
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(data))}
	w.dec.UseNumber()
	members, err := w.object()
	if err != nil {
		return nil, err
	}
	if _, err := w.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has data after the JSON object")
	}
	return members, nil
}

type walker struct {
	dec   *json.Decoder
	depth int
}

// object reads a whole object, its opening brace included.
func (w *walker) object() ([]member, error) {
	if _, err := w.token(); err != nil {
		return nil, err
	}
	return w.members()
}

func (w *walker) members() ([]member, error) {
	var members []member
	seen := map[string]bool{}
	for w.dec.More() {
		token, err := w.token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if seen[folded(name)] {
			return nil, fmt.Errorf("has two members named %q in one object, or names that differ only in case", clip(name))
		}
		seen[folded(name)] = true
		afterName := int(w.dec.InputOffset())
		if err := w.value(); err != nil {
			return nil, err
		}
		members = append(members, member{name: name, start: afterName, end: int(w.dec.InputOffset())})
	}
	_, err := w.token()
	return members, err
}

// folded maps names that encoding/json treats as equal to one name: it replaces
// each rune by the smallest one that Unicode folds to the same.
func folded(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

// clip bounds the length of untrusted text in messages.
func clip(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

func (w *walker) value() error {
	token, err := w.token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	if w.depth++; w.depth > maxDepth {
		return fmt.Errorf("is nested deeper than %d levels", maxDepth)
	}
	defer func() { w.depth-- }()
	if delim == '{' {
		_, err = w.members()
		return err
	}
	for w.dec.More() {
		if err := w.value(); err != nil {
			return err
		}
	}
	_, err = w.token()
	return err
}

func (w *walker) token() (json.Token, error) {
	token, err := w.dec.Token()
	if err != nil {
		return nil, errors.New("is not valid JSON")
	}
	return token, nil
}

// valueOf narrows a member's range to the value itself: the decoder's offset
// after a name lies before the colon.
func valueOf(data []byte, m member) member {
	rest := data[m.start:m.end]
	m.start += bytes.IndexByte(rest, ':') + 1
	m.start += len(data[m.start:m.end]) - len(bytes.TrimLeft(data[m.start:m.end], " \t\r\n"))
	return m
}

// parseObject is objectMembers with each range narrowed to its value.
func parseObject(data []byte) ([]member, error) {
	members, err := objectMembers(data)
	for i := range members {
		members[i] = valueOf(data, members[i])
	}
	return members, err
}

func find(members []member, name string) (member, bool) {
	for _, m := range members {
		if m.name == name {
			return m, true
		}
	}
	return member{}, false
}

// stringMember returns the string value of a member that must be there.
func stringMember(data []byte, members []member, name string) (string, error) {
	m, ok := find(members, name)
	if !ok {
		return "", fmt.Errorf("has no member %q", name)
	}
	var s *string
	if err := json.Unmarshal(data[m.start:m.end], &s); err != nil || s == nil || *s == "" {
		return "", fmt.Errorf("member %q is not a non-empty string", name)
	}
	return *s, nil
}

// splice replaces the bytes of a value and keeps all others.
func splice(data []byte, m member, value []byte) []byte {
	out := make([]byte, 0, len(data)-(m.end-m.start)+len(value))
	out = append(out, data[:m.start]...)
	out = append(out, value...)
	return append(out, data[m.end:]...)
}

func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return bytes.TrimRight(b.Bytes(), "\n")
}

// privateMembers are the names under which RFC 7518 (RSA, EC, oct), RFC 8037
// (OKP) and RFC 9964 (AKP) put secret values of a JWK.
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

func isPrivateMember(name string) bool {
	for _, p := range privateMembers {
		if strings.EqualFold(name, p) {
			return true
		}
	}
	return false
}

// containsPrivateKey searches for secret material at any depth, unknown members
// included: a JWK with secret members or a PEM private key. It expects data that
// objectMembers accepted.
func containsPrivateKey(data []byte) bool {
	var v any
	if json.Unmarshal(data, &v) != nil {
		return false
	}
	return secretIn(v)
}

func secretIn(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "PRIVATE KEY-----")
	case []any:
		for _, element := range v {
			if secretIn(element) {
				return true
			}
		}
	case map[string]any:
		_, isKey := v["kty"]
		for name, element := range v {
			if isKey && isPrivateMember(name) || secretIn(element) {
				return true
			}
		}
	}
	return false
}
