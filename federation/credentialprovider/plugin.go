package credentialprovider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/federation/exchange"
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
}

// Plugin answers kubelet.
type Plugin struct {
	// Service is where credentials come from.
	Service Service
	// Budget bounds one answer, Budget if zero.
	Budget time.Duration
	// Now is the clock.
	Now func() time.Time
	// Explain tells the likely cause of a failed exchange in one line, "" if it
	// knows none; nil does not try.
	Explain func(ctx context.Context, token discovery.Token, failure error) string
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
	credential, err := p.exchange(ctx, access.Exchanger, asked.token, time.Duration(float64(budget)*share))
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	return writeResponse(out, answer(access.Key, credential, p.Now()))
}

var errNoToken = errors.New("kubelet sent no service account token: the CredentialProviderConfig needs tokenAttributes.serviceAccountTokenAudience for this provider (Kubernetes 1.33 and later), and the pod a service account, which static pods have not")

func (p *Plugin) exchange(ctx context.Context, exchanger exchange.Exchanger, token discovery.Token, limit time.Duration) (exchange.Credential, error) {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	credential, err := exchanger.Exchange(within, token)
	if err == nil && !credential.Password.Given() {
		err = errors.New("the service answered without a credential")
	}
	if err == nil || p.Explain == nil {
		return credential, err
	}
	if cause := p.Explain(ctx, token, err); cause != "" {
		err = fmt.Errorf("%w; likely cause: %s", err, cause)
	}
	return exchange.Credential{}, err
}
