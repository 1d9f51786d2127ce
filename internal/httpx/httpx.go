// Package httpx reads HTTP answers of strangers within bounds.
package httpx

import (
	"errors"
	"io"
	"net/http"
)

// ErrTooLarge is returned for a body above the limit. The body is never cut:
// half a document must not pass for a whole one.
var ErrTooLarge = errors.New("answer is too large")

// ReadBody reads at most limit bytes of a response body and closes it.
func ReadBody(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, ErrTooLarge
	}
	return body, nil
}
