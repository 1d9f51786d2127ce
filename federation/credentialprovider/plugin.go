package credentialprovider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// Budget is the time limit of an answer. Kubelet waits for a minute.
const Budget = 25 * time.Second

// share is the part of the budget for the exchange and its retries; the rest is
// for explaining its failure.
const share = 4.0 / 5

// Service returns how to get a credential for an image, according to the
// administrator's settings and the service account's annotations. It returns
// nil for an image of another registry.
type Service func(image Image, annotations map[string]string) (*Access, error)

// Access is how to get a credential.
type Access struct {
	// Exchanger gets it.
	Exchanger exchange.Exchanger
	// Key matches the images that it is valid for, by kubelet's rules.
	Key string
	// Explain has the options for explaining a refusal, except the token.
	Explain explain.Options
}

// Plugin answers kubelet.
type Plugin struct {
	// Service provides the credentials.
	Service Service
	// Budget bounds one answer.
	Budget time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Answer reads one request and writes its response. On an error it writes
// nothing. The error is one clean line, which kubelet logs.
func (p *Plugin) Answer(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, p.Budget)
	defer cancel()
	request, err := readRequest(in)
	if err != nil {
		return err
	}
	image := ParseImage(request.image)
	access, err := p.Service(image, request.annotations)
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	if access == nil {
		return writeResponse(out, response(0, nil)) // for another registry, and not cached
	}
	if !request.token.Given() {
		return errors.New("kubelet sent no service account token: the CredentialProviderConfig needs tokenAttributes.serviceAccountTokenAudience for this provider (Kubernetes 1.33 or later), and the pod needs a service account, which static pods lack")
	}
	if err := exchange.RefuseAPIToken(request.token, ""); err != nil {
		return fmt.Errorf("tokenAttributes.serviceAccountTokenAudience of the CredentialProviderConfig: %w", err)
	}
	credential, err := p.exchange(ctx, access, request.token, time.Duration(float64(p.Budget)*share))
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	return writeResponse(out, response(cacheDuration(p.Now(), credential.Expiry), map[string]wireAuth{
		access.Key: {Username: credential.Username, Password: credential.Password.Reveal()},
	}))
}

func (p *Plugin) exchange(ctx context.Context, access *Access, token discovery.Token, limit time.Duration) (exchange.Credential, error) {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	credential, err := access.Exchanger.Exchange(within, token)
	var refused *exchange.RefusedError
	switch {
	case err == nil && !credential.Password.Given():
		return credential, errors.New("the service answered without a credential")
	case errors.As(err, &refused):
		options := access.Explain
		options.Token, options.Now = token, p.Now
		why := explain.Refusal(ctx, refused, options)
		return credential, fmt.Errorf("%w; likely cause: %s; cure: %s", err, why.Cause, why.Cure)
	default:
		return credential, err
	}
}
