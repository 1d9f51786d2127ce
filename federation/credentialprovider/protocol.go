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
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/httpx"
)

const (
	apiVersion   = "credentialprovider.kubelet.k8s.io/v1"
	requestKind  = "CredentialProviderRequest"
	responseKind = "CredentialProviderResponse"
	byRegistry   = "Registry" // a cacheKeyType

	// maxRequest bounds standard input in bytes. Annotations have at most
	// 256 KiB in all, and a token a few.
	maxRequest = 1 << 20
)

// request is a CredentialProviderRequest whose token can't be logged.
type request struct {
	image       string
	token       discovery.Token
	annotations map[string]string
}

func readRequest(in io.Reader) (request, error) {
	data, err := httpx.Read(in, maxRequest)
	switch {
	case errors.Is(err, httpx.ErrTooLarge):
		return request{}, fmt.Errorf("kubelet's request on standard input is larger than %d bytes", maxRequest)
	case err != nil:
		return request{}, fmt.Errorf("read kubelet's request from standard input: %w", err)
	}
	return parseRequest(data)
}

// parseRequest quotes nothing of a request that it can't parse: it contains a
// token.
func parseRequest(data []byte) (request, error) {
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

// nothing is the answer for an image of another registry. It is not cached.
func nothing() wireResponse { return response(0, nil) }

// answer gives the credential for the images that the key matches.
func answer(key string, credential exchange.Credential, now time.Time) wireResponse {
	return response(cacheDuration(now, credential.Expiry), map[string]wireAuth{
		key: {Username: credential.Username, Password: credential.Password.Reveal()},
	})
}

// response is cached by registry. That is safe: kubelet keeps a cache for each
// service account with its annotations (cacheType ServiceAccount), and the
// credential depends on nothing else.
func response(keep time.Duration, auth map[string]wireAuth) wireResponse {
	return wireResponse{Kind: responseKind, APIVersion: apiVersion, CacheKeyType: byRegistry, CacheDuration: keep.String(), Auth: auth}
}

func writeResponse(out io.Writer, r wireResponse) error {
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("answer kubelet on standard output: %w", err)
	}
	return nil
}
