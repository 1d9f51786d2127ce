package exchange

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestGate: whatever the library would do one day, nothing leaves but to the
// two addresses.
func TestGate(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write([]byte(`{"access_token":"a","accessToken":"b"}`))
	}))
	defer server.Close()
	g := &gate{gcp: &gcp{stsURL: server.URL + "/v1/token", iamURL: server.URL + "/iam"}}
	for _, url := range []string{server.URL, server.URL + "/v1/token/", server.URL + "/v1/token?a=b", server.URL + "/v1/introspect", server.URL + "/other"} {
		req := httptest.NewRequest(http.MethodPost, url, strings.NewReader("subject_token=a"))
		resp, err := g.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || g.err == nil || asked != 0 {
			t.Errorf("%s: error %v, %d requests", url, err, asked)
		}
	}
	for _, url := range []string{g.stsURL, g.iamURL} {
		resp, err := g.RoundTrip(httptest.NewRequest(http.MethodPost, url, strings.NewReader("subject_token=a")))
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		resp.Body.Close()
	}
	if asked != 2 {
		t.Errorf("%d requests", asked)
	}
}
