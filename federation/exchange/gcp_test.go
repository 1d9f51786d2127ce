package exchange_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"

	"oidc-publisher/federation/exchange"
)

// sent is a request as a service reads it.
type sent struct {
	path, contentType, authorization string
	body                             any
}

// recorded is the stand-in for Google, which keeps the requests.
func recorded(t *testing.T, w world, all *[]sent) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s := sent{path: r.URL.String(), contentType: r.Header.Get("Content-Type"), authorization: r.Header.Get("Authorization")}
		var members map[string]any
		if json.Unmarshal(raw, &members) == nil {
			delete(members, "delegates") // the library sends an empty list
			s.body = members
		} else if s.body, err = url.ParseQuery(string(raw)); err != nil {
			t.Error(err)
		}
		if s.authorization != "" {
			s.authorization = "Bearer FEDERATED"
		}
		*all = append(*all, s)
		r.Body = io.NopCloser(bytes.NewReader(raw))
		w.google.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

type fixedSubject string

func (s fixedSubject) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return string(s), nil
}

// TestRequestsOfGooglesLibrary: the two requests are those that Google's own
// client library sends for the same configuration.
func TestRequestsOfGooglesLibrary(t *testing.T) {
	for name, config := range map[string]exchange.GCPConfig{
		"federated token":              {},
		"federated token, scopes":      {Scopes: []string{"a", "https://b.example.com"}},
		"service account":              {ServiceAccount: account},
		"service account, own choices": {ServiceAccount: account, Lifetime: 10 * time.Minute, Scopes: []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			subject := w.token(t, "//iam.googleapis.com/"+provider, time.Hour)
			var ours, theirs []sent
			config.Provider, config.STSURL = provider, recorded(t, w, &ours)
			config.IAMURL = config.STSURL
			e, err := exchange.GCP(config)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Exchange(t.Context(), subject); err != nil {
				t.Fatal(err)
			}

			base, impersonation := recorded(t, w, &theirs), ""
			if config.ServiceAccount != "" {
				impersonation = base + "/v1/projects/-/serviceAccounts/" + config.ServiceAccount + ":generateAccessToken"
			}
			if len(config.Scopes) == 0 {
				config.Scopes = []string{exchange.CloudPlatform}
			}
			ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Timeout: 10 * time.Second})
			source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
				Audience: "//iam.googleapis.com/" + provider, SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", SubjectTokenSupplier: fixedSubject(subject.Reveal()),
				TokenURL: base + "/v1/token", ServiceAccountImpersonationURL: impersonation,
				ServiceAccountImpersonationLifetimeSeconds: int(config.Lifetime / time.Second), Scopes: config.Scopes,
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := source.Token(); err != nil {
				t.Fatal(err)
			}
			if len(ours) == 0 || !reflect.DeepEqual(ours, theirs) {
				t.Errorf("sent   %+v\ntheirs %+v", ours, theirs)
			}
		})
	}
}
