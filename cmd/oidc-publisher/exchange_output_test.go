package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
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
	internet := fake.NewInternet(t)
	internet.Route(scriptHost, http.NotFoundHandler())
	api := fake.StartAPIServer(t, fake.APIServerOptions{Issuer: "https://" + scriptHost})
	token, err := api.MintToken("default", "default", "https://api.cloudsmith.io", 0)
	if err != nil {
		t.Fatal(err)
	}
	s := exchangeService{}
	s.explain.Service, s.explain.Transport = "cloudsmith", internet.Client().Transport
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.exchange(ctx, t.Context(), lateRefusal{}, func(context.Context) (discovery.Token, error) { return discovery.NewToken(token), nil })
	if err == nil || !strings.Contains(err.Error(), "nothing is published at this address") {
		t.Errorf("error %v", err)
	}
}
