package kube

import (
	"fmt"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"

	"oidc-publisher/internal/httpx"
)

// maxTokenFile bounds a token file in bytes. Servers accept headers of about
// 8 KiB.
const maxTokenFile = 64 << 10

// useTokenFile makes the client read its token file at every request. client-go
// would keep a token for a minute, even after the server refused it.
func useTokenFile(config *rest.Config) (file string) {
	file = config.BearerTokenFile
	if file == "" {
		return ""
	}
	config.BearerToken, config.BearerTokenFile = "", ""
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return tokenTransport{file, next} })
	return file
}

type tokenTransport struct {
	file string
	next http.RoundTripper
}

func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := readToken(t.file)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	return t.next.RoundTrip(req)
}

func readToken(file string) (string, error) {
	data, err := httpx.ReadFile(file, maxTokenFile)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", file)
	}
	return token, nil
}
