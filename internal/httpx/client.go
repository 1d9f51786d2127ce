package httpx

import (
	"net/http"
	"time"
)

// UserAgent is the User-Agent of every request of this tool.
const UserAgent = "oidc-publisher"

// maxHeaderBytes bounds the header of an answer; real ones are below 4 KiB.
const maxHeaderBytes = 64 << 10

// Anonymous returns a client without cookies and credentials that follows no
// redirects (it returns the 3xx answer itself) and takes at most timeout for a
// request. A nil transport is a copy of http.DefaultTransport without kept
// connections, so that HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE work as usual.
func Anonymous(transport http.RoundTripper, timeout time.Duration) *http.Client {
	if transport == nil {
		transport = freshTransport()
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

func freshTransport() *http.Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		t = d.Clone()
	}
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = maxHeaderBytes
	return t
}
