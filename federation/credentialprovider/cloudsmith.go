package credentialprovider

import (
	"fmt"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// The annotations of Cloudsmith's own plugin. It also has one for the host of the
// API. This plugin ignores it: the author of a service account could have tokens
// sent to any host.
const (
	CloudsmithOrgAnnotation     = "cloudsmith.io/org-slug"
	CloudsmithServiceAnnotation = "cloudsmith.io/service-slug"
)

// cloudsmithHost serves every organisation below its own path. A custom domain
// serves one organisation.
const cloudsmithHost = "docker.cloudsmith.io"

// CloudsmithHosts are the registries of Cloudsmith.
func CloudsmithHosts() []string { return []string{cloudsmithHost} }

// CloudsmithSettings are the node's settings for Cloudsmith.
type CloudsmithSettings struct {
	// Registries are the hosts of the images, CloudsmithHosts if none.
	Registries []string
	// Org and Service are the slugs of the organisation and of the service
	// account.
	Org, Service Choice
	// New returns the exchange for both.
	New func(org, service string) (exchange.Exchanger, error)
}

// Cloudsmith returns the service Cloudsmith. A credential is valid for one
// organisation. On Cloudsmith's own host its key is the path of the organisation,
// with the final slash: kubelet compares paths as text, and acme would also match
// acme-other. For an image of another organisation the plugin returns an error
// instead of an empty answer: kubelet pulls without a credential after either,
// but logs the cause only after an error.
func Cloudsmith(s CloudsmithSettings) Service {
	if len(s.Registries) == 0 {
		s.Registries = CloudsmithHosts()
	}
	return func(image Image, annotations map[string]string) (*Access, error) {
		if !image.ofAny(s.Registries) {
			return nil, nil
		}
		org, err := s.Org.need(annotations)
		if err != nil {
			return nil, err
		}
		service, err := s.Service.need(annotations)
		if err != nil {
			return nil, err
		}
		exchanger, err := s.New(org, service)
		if err != nil {
			return nil, err
		}
		key := image.Host
		if image.Host == cloudsmithHost {
			if !image.within(org) {
				return nil, fmt.Errorf("the image belongs to the organisation %.100q, and the credentials of this pod to %q (annotation %s, or the node's --org): no token was sent, and only a public image can be pulled",
					image.folder(), org, CloudsmithOrgAnnotation)
			}
			key = pathKey(image.Host, org)
		}
		return &Access{Exchanger: exchanger, Key: key, Explain: explain.Options{Service: verify.Cloudsmith, Org: org, ServiceSlug: service}}, nil
	}
}
