package credentialprovider

import (
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// The annotations for Google Cloud.
const (
	// GCPProviderAnnotation names the workload identity provider:
	// projects/N/locations/global/workloadIdentityPools/P/providers/X.
	GCPProviderAnnotation = "oidc-publisher/gcp-provider"
	// GCPServiceAccountAnnotation names the service account to impersonate by
	// its e-mail address; without it the federated identity itself pulls.
	GCPServiceAccountAnnotation = "oidc-publisher/gcp-service-account"
)

// GCPHosts are the registries of Google Cloud, as patterns.
func GCPHosts() []string { return []string{"gcr.io", "*.gcr.io", "*.pkg.dev"} }

// GCPSettings are the node's settings for Google Cloud.
type GCPSettings struct {
	// Registries are the hosts of the images, GCPHosts if none.
	Registries []string
	// Provider and ServiceAccount are the values of the annotations above.
	Provider, ServiceAccount Choice
	// New returns the exchange for both; the service account may be empty.
	New func(provider, serviceAccount string) (exchange.Exchanger, error)
}

// GCP returns the service Google Cloud. An access token is valid for every
// registry there; its key is the registry of the image.
func GCP(s GCPSettings) Service {
	if len(s.Registries) == 0 {
		s.Registries = GCPHosts()
	}
	return func(image Image, annotations map[string]string) (*Access, error) {
		if !image.ofAny(s.Registries) {
			return nil, nil
		}
		provider, err := s.Provider.need(annotations)
		if err != nil {
			return nil, err
		}
		account, err := s.ServiceAccount.of(annotations)
		if err != nil {
			return nil, err
		}
		exchanger, err := s.New(provider, account)
		if err != nil {
			return nil, err
		}
		return &Access{Exchanger: exchanger, Key: image.Host, Explain: explain.Options{Service: verify.GCP, Provider: provider, ServiceAccount: account}}, nil
	}
}
