// Package credentialprovider is a kubelet image credential provider: it exchanges
// the service account token that kubelet sends for a credential of the image's
// registry. The protocol is credentialprovider.kubelet.k8s.io/v1 with the service
// account tokens of KEP-4412.
package credentialprovider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	strict "sigs.k8s.io/json"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

const (
	apiVersion   = "credentialprovider.kubelet.k8s.io/v1"
	requestKind  = "CredentialProviderRequest"
	responseKind = "CredentialProviderResponse"
	byRegistry   = "Registry" // a cacheKeyType

	// maxRequest bounds standard input in bytes. Annotations have at most 256
	// KiB in all, and a token has a few KiB.
	maxRequest = 1 << 20
)

// The messages of credentialprovider.kubelet.k8s.io/v1. The official types of
// k8s.io/kubelet would add 1 ms of package initialisation to a start of 6 ms. A
// test compares these types with them, field by field.

type wireRequest struct {
	Kind        string            `json:"kind,omitempty"`
	APIVersion  string            `json:"apiVersion,omitempty"`
	Image       string            `json:"image"`
	Token       string            `json:"serviceAccountToken,omitempty"`
	Annotations map[string]string `json:"serviceAccountAnnotations,omitempty"`
}

type wireResponse struct {
	Kind          string              `json:"kind,omitempty"`
	APIVersion    string              `json:"apiVersion,omitempty"`
	CacheKeyType  string              `json:"cacheKeyType"`
	CacheDuration string              `json:"cacheDuration,omitempty"` // as time.Duration has it
	Auth          map[string]wireAuth `json:"auth,omitempty"`
}

type wireAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// request is a CredentialProviderRequest whose token can't be logged.
type request struct {
	image       string
	token       discovery.Token
	annotations map[string]string
}

// readRequest quotes nothing of a request that it can't parse: it contains a
// token.
func readRequest(in io.Reader) (request, error) {
	data, err := httpx.Read(in, maxRequest)
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return request{}, fmt.Errorf("kubelet's request on standard input is larger than %d bytes", maxRequest)
	case err != nil:
		return request{}, fmt.Errorf("read kubelet's request from standard input: %w", err)
	}
	var meta struct{ Kind, APIVersion string }
	if err := json.Unmarshal(data, &meta); err != nil {
		return request{}, errors.New("standard input is not a JSON object: kubelet runs this program, with a request on its standard input")
	}
	if meta.APIVersion != apiVersion || meta.Kind != requestKind {
		return request{}, fmt.Errorf("the request is a %.60q of %.60q, not a %s of %s: set apiVersion: %[4]s for this provider in the CredentialProviderConfig",
			meta.Kind, meta.APIVersion, requestKind, apiVersion)
	}
	var sent wireRequest
	unknown, err := strict.UnmarshalStrict(data, &sent)
	switch {
	case err != nil:
		return request{}, errors.New("kubelet's request has a field of the wrong type for " + apiVersion)
	case len(unknown) > 0:
		return request{}, errors.New("kubelet's request has a field that " + apiVersion + " lacks in this version of the program, or a duplicate: check for a newer version")
	case sent.Image == "":
		return request{}, errors.New("kubelet's request has no image")
	}
	r := request{image: sent.Image, annotations: sent.Annotations}
	if sent.Token != "" {
		r.token = discovery.NewToken(sent.Token)
	}
	return r, nil
}

// margin is the least remaining lifetime of a cached credential, so that it lasts
// until the end of a pull.
const margin = 5 * time.Minute

// cacheDuration is how long kubelet may cache a credential, in whole seconds: 80 %
// of its remaining lifetime, less near its end, and 0 if its expiry is unknown.
func cacheDuration(now, expiry time.Time) time.Duration {
	if expiry.IsZero() {
		return 0
	}
	left := expiry.Sub(now)
	return max(0, min(left*4/5, left-margin)).Truncate(time.Second)
}

// response returns a response that kubelet caches by registry. That is safe:
// kubelet keeps a cache for each service account with its annotations
// (cacheType ServiceAccount), and the credential depends on nothing else.
func response(keep time.Duration, auth map[string]wireAuth) wireResponse {
	return wireResponse{Kind: responseKind, APIVersion: apiVersion, CacheKeyType: byRegistry, CacheDuration: keep.String(), Auth: auth}
}

func writeResponse(out io.Writer, r wireResponse) error {
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("answer kubelet on standard output: %w", err)
	}
	return nil
}
