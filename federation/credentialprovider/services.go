package credentialprovider

import (
	"cmp"
	"fmt"
	"strings"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// The annotations of a service account. Those for Cloudsmith are of Cloudsmith's
// own plugin, which also has one for the host of the API. This plugin ignores it:
// the author of a service account could have tokens sent to any host.
const (
	CloudsmithOrgAnnotation     = "cloudsmith.io/org-slug"
	CloudsmithServiceAnnotation = "cloudsmith.io/service-slug"
	// GCPProviderAnnotation names the workload identity provider:
	// projects/N/locations/global/workloadIdentityPools/P/providers/X.
	GCPProviderAnnotation = "oidc-publisher/gcp-provider"
	// GCPServiceAccountAnnotation names the service account to impersonate by
	// its e-mail address; without it the federated identity itself pulls.
	GCPServiceAccountAnnotation = "oidc-publisher/gcp-service-account"
)

// CloudsmithHost serves every organisation below its own path. A custom domain
// serves one organisation.
const CloudsmithHost = "docker.cloudsmith.io"

// Choice is a setting that an annotation of the service account may choose,
// unless the node's administrator pins it.
type Choice struct {
	// Flag is the flag that pins it, without the dashes.
	Flag string
	// Annotation is the annotation that sets it.
	Annotation string
	// Pinned is the administrator's value; an annotation must not differ.
	Pinned string
	// Default is the value without an annotation.
	Default string

	optional bool
	usage    string
	env      []string // variables of --default-FLAG
}

// of returns the value for a service account, "" for none.
func (c Choice) of(annotations map[string]string) (string, error) {
	chosen := annotations[c.Annotation]
	switch value := cmp.Or(c.Pinned, chosen, c.Default); {
	case c.Pinned != "" && chosen != "" && chosen != c.Pinned:
		return "", fmt.Errorf("the service account's annotation %s is %.200q, but this node allows only %q (--%s)", c.Annotation, chosen, c.Pinned, c.Flag)
	case value == "" && !c.optional:
		return "", fmt.Errorf("the service account has no annotation %s, and this node has no default for it (--%s, --default-%[2]s); kubelet sends the annotation only if the CredentialProviderConfig lists it", c.Annotation, c.Flag)
	default:
		return value, nil
	}
}

// cloudsmith returns access to Cloudsmith. A credential is valid for one
// organisation. On Cloudsmith's own host its key is the path of the organisation,
// with the final slash: kubelet compares paths as text, and acme would also match
// acme-other. For an image of another organisation it returns an error instead of
// no access: kubelet pulls without a credential after either, but logs the cause
// only after an error.
func (s *Settings) cloudsmith(image Image, annotations map[string]string) (*Access, error) {
	org, err := s.Org.of(annotations)
	if err != nil {
		return nil, err
	}
	service, err := s.Service.of(annotations)
	if err != nil {
		return nil, err
	}
	exchanger, err := exchange.Cloudsmith(exchange.CloudsmithConfig{Org: org, Service: service, URL: s.CloudsmithURL})
	if err != nil {
		return nil, err
	}
	key := image.Host
	if key == CloudsmithHost {
		if folder, _, _ := strings.Cut(image.Path, "/"); !strings.HasPrefix(image.Path, org+"/") {
			return nil, fmt.Errorf("the image belongs to the organisation %.100q, and the credentials of this pod to %q (annotation %s, or the node's --org): no token was sent, and only a public image can be pulled",
				folder, org, CloudsmithOrgAnnotation)
		}
		if org == "v1" || org == "v2" {
			// kubelet drops one of these from the path of a key, because
			// Docker's configuration may contain the path of the API.
			key += "/v2"
		}
		key += "/" + org + "/"
	}
	return &Access{Exchanger: exchanger, Key: key, Explain: explain.Options{Service: verify.Cloudsmith, Org: org, ServiceSlug: service}}, nil
}

// gcp returns access to Google Cloud. An access token is valid for every registry
// there; its key is the registry of the image.
func (s *Settings) gcp(image Image, annotations map[string]string) (*Access, error) {
	provider, err := s.Provider.of(annotations)
	if err != nil {
		return nil, err
	}
	account, err := s.ServiceAccount.of(annotations)
	if err != nil {
		return nil, err
	}
	exchanger, err := exchange.GCP(exchange.GCPConfig{Provider: provider, ServiceAccount: account, STSURL: s.STSURL, IAMURL: s.IAMURL})
	if err != nil {
		return nil, err
	}
	return &Access{Exchanger: exchanger, Key: image.Host, Explain: explain.Options{Service: verify.GCP, Provider: provider, ServiceAccount: account}}, nil
}
