// Package httpx reads input from outside with limits: HTTP responses, files and
// streams. It also classifies network failures and masks secrets in untrusted
// text.
package httpx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"
)

// UserAgent is the User-Agent of every request of this tool.
const UserAgent = "oidc-publisher"

// maxHeaderBytes bounds the header of an answer; real ones are below 4 KiB.
const maxHeaderBytes = 64 << 10

// Anonymous returns a client without cookies and credentials that follows no
// redirects (it returns the 3xx answer itself) and takes at most timeout for a
// request. A nil transport is a copy of http.DefaultTransport without
// keep-alive, so that HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE work as usual.
func Anonymous(transport http.RoundTripper, timeout time.Duration) *http.Client {
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // the standard library's own type; nothing here replaces it
		own.DisableKeepAlives, own.MaxResponseHeaderBytes = true, maxHeaderBytes
		transport = own
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

// ErrTooLarge is wrapped by the error for input above the limit. Input is never
// truncated, because half a document must not look like a whole one.
var ErrTooLarge = errors.New("too large")

type tooLargeError struct{ limit int64 }

func (e tooLargeError) Error() string { return fmt.Sprintf("larger than %d bytes", e.limit) }

func (e tooLargeError) Is(target error) bool { return target == ErrTooLarge }

// Read reads all of r, at most limit bytes.
func Read(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLargeError{limit}
	}
	return data, nil
}

// ReadBody reads a response body of at most limit bytes and closes it.
func ReadBody(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	return Read(resp.Body, limit)
}

// ReadFile reads a file of at most limit bytes. Its errors name the path.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := Read(f, limit)
	if errors.Is(err, ErrTooLarge) {
		err = &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return data, err
}
