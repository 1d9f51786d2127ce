package explain_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/fake"
)

// lateRefusal refuses when the time of the exchange is over.
type lateRefusal struct{}

func (lateRefusal) Exchange(ctx context.Context, _ discovery.Token) (exchange.Credential, error) {
	<-ctx.Done()
	return exchange.Credential{}, &exchange.RefusedError{Service: "Cloudsmith", Host: "api.cloudsmith.io", Status: http.StatusUnauthorized, Reason: "no"}
}

// TestLateRefusalIsExplained: the explanation has time of its own.
func TestLateRefusalIsExplained(t *testing.T) {
	const host = "issuer.example.com"
	internet := fake.NewInternet(t)
	internet.Route(host, http.NotFoundHandler())
	api := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: "https://" + host})
	token, err := api.MintToken("default", "default", "https://api.cloudsmith.io", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = explain.Exchange(ctx, t.Context(), lateRefusal{}, explain.Options{
		Service: verify.Cloudsmith, Token: discovery.NewToken(token), Transport: internet.Client().Transport,
	})
	if err == nil || !strings.Contains(err.Error(), "nothing is published at this address") {
		t.Errorf("error %v", err)
	}
}
