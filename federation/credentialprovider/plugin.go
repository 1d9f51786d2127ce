package credentialprovider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// Budget is how long an answer may take in all. Kubelet waits for a minute.
const Budget = 25 * time.Second

// share is the part of the budget for the exchange and its retries; the rest is
// for finding out why it failed.
const share = 4.0 / 5

// Service finds the way to a credential for an image, as the administrator's
// settings and the service account's annotations say. It returns nil where the
// image is not of the service.
type Service func(image Image, annotations map[string]string) (*Access, error)

// Access is the way to a credential.
type Access struct {
	// Exchanger gets it.
	Exchanger exchange.Exchanger
	// Key matches the images that it is good for, by kubelet's rules.
	Key string
	// Asked is what a refusal is explained by.
	Asked explain.Options
}

// Plugin answers kubelet.
type Plugin struct {
	// Service is where credentials come from.
	Service Service
	// Budget bounds one answer, Budget if zero.
	Budget time.Duration
	// Now is the clock.
	Now func() time.Time
	// Transport carries the requests to the issuer that explain a refusal; nil
	// is a copy of http.DefaultTransport.
	Transport http.RoundTripper
}

// Answer reads one request and writes the response to it. After an error
// nothing was written, and the error is one clean line: kubelet logs it.
func (p *Plugin) Answer(ctx context.Context, in io.Reader, out io.Writer) error {
	budget := p.Budget
	if budget == 0 {
		budget = Budget
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	asked, err := readRequest(in)
	if err != nil {
		return err
	}
	image := ParseImage(asked.image)
	access, err := p.Service(image, asked.annotations)
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	if access == nil {
		return writeResponse(out, nothing())
	}
	if !asked.token.Given() {
		return errNoToken
	}
	if err := exchange.RefuseAPIToken(asked.token, ""); err != nil {
		return fmt.Errorf("tokenAttributes.serviceAccountTokenAudience of the CredentialProviderConfig: %w", err)
	}
	credential, err := p.exchange(ctx, access, asked.token, time.Duration(float64(budget)*share))
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	return writeResponse(out, answer(access.Key, credential, p.Now()))
}

var errNoToken = errors.New("kubelet sent no service account token: the CredentialProviderConfig needs tokenAttributes.serviceAccountTokenAudience for this provider (Kubernetes 1.33 and later), and the pod a service account, which static pods have not")

func (p *Plugin) exchange(ctx context.Context, access *Access, token discovery.Token, limit time.Duration) (exchange.Credential, error) {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	credential, err := access.Exchanger.Exchange(within, token)
	var refused *exchange.RefusedError
	switch {
	case err == nil && !credential.Password.Given():
		return credential, errors.New("the service answered without a credential")
	case errors.As(err, &refused):
		asked := access.Asked
		asked.Token, asked.Transport, asked.Now = token, p.Transport, p.Now
		why := explain.Refusal(ctx, refused, asked)
		return credential, fmt.Errorf("%w; likely cause: %s; cure: %s", err, why.Cause, why.Cure)
	default:
		return credential, err
	}
}
