package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// MaxTokenFile bounds a token file in bytes.
const MaxTokenFile = 64 << 10

// ReadToken reads a token from a file, or from stdin if the path is "-". Its
// errors never show what was read.
func ReadToken(path string, stdin io.Reader) (discovery.Token, error) {
	from := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return discovery.Token{}, err
		}
		defer file.Close()
		from = file
	}
	raw, err := httpx.Read(from, MaxTokenFile)
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return discovery.Token{}, fmt.Errorf("%s: larger than %d bytes, so it is not a token", path, MaxTokenFile)
	case err != nil:
		return discovery.Token{}, fmt.Errorf("%s: %w", path, err)
	case strings.TrimSpace(string(raw)) == "":
		return discovery.Token{}, fmt.Errorf("%s: is empty", path)
	}
	return discovery.NewToken(string(raw)), nil
}

// TokenFile is where a credential configuration has its subject token.
type TokenFile struct {
	// Path is the file.
	Path string
	// Field names the member with the token if the file is a JSON object; "" if
	// the file is the token.
	Field string
}

// Token reads the token in the content of the file. Its errors do not show it.
func (f TokenFile) Token(content []byte) (discovery.Token, error) {
	if f.Field == "" {
		return discovery.NewToken(string(content)), nil
	}
	var members map[string]any
	if json.Unmarshal(content, &members) != nil {
		return discovery.Token{}, errors.New("is not a JSON object, which the credential configuration says it is")
	}
	token, ok := members[f.Field].(string)
	if !ok || token == "" {
		return discovery.Token{}, fmt.Errorf("has no string member %q, which the credential configuration names", httpx.MaskForeign(f.Field))
	}
	return discovery.NewToken(token), nil
}

// SubjectSource gets the subject token at each use, because a projected token
// is replaced while a program runs. It refuses tokens for the API server
// itself.
type SubjectSource struct {
	// Mint mints the token; nil reads File.
	Mint func(context.Context) (discovery.Token, error)
	// File holds the token. The path "-" is Stdin, which is read once.
	File  TokenFile
	Stdin io.Reader
	// AllowAPIToken accepts a token for the API server itself, see
	// RefuseAPIToken.
	AllowAPIToken bool

	once   sync.Once
	piped  discovery.Token
	failed error
}

// Token returns the token. The context bounds minting.
func (s *SubjectSource) Token(ctx context.Context) (discovery.Token, error) {
	file := s.File.Path
	var token discovery.Token
	var err error
	switch {
	case s.Mint != nil:
		file = ""
		token, err = s.Mint(ctx)
	case file == "-":
		s.once.Do(func() { s.piped, s.failed = s.read() })
		token, err = s.piped, s.failed
	default:
		token, err = s.read()
	}
	if err == nil && !s.AllowAPIToken {
		if err = RefuseAPIToken(token, file); err != nil {
			err = fmt.Errorf("%w (--allow-api-token overrides this)", err)
		}
	}
	return token, err
}

func (s *SubjectSource) read() (discovery.Token, error) {
	content, err := ReadToken(s.File.Path, s.Stdin)
	if err != nil {
		return discovery.Token{}, fmt.Errorf("token file: %w", err)
	}
	token, err := s.File.Token([]byte(content.Reveal()))
	if err != nil {
		return discovery.Token{}, fmt.Errorf("token file %s: %w", s.File.Path, err)
	}
	return token, nil
}
