package credentialprovider

import (
	"fmt"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
)

// The annotations of Cloudsmith's own plugin. That plugin also takes the host
// of the API from one: whoever may write a service account could have its
// token sent anywhere, so this one does not.
const (
	CloudsmithOrgAnnotation     = "cloudsmith.io/org-slug"
	CloudsmithServiceAnnotation = "cloudsmith.io/service-slug"
)

// cloudsmithHost serves every organisation, each below its own path. The hosts
// that a customer has of Cloudsmith (custom domains) serve one.
const cloudsmithHost = "docker.cloudsmith.io"

// CloudsmithHosts are the registries of Cloudsmith.
func CloudsmithHosts() []string { return []string{cloudsmithHost} }

// CloudsmithSettings are the node's settings for Cloudsmith.
type CloudsmithSettings struct {
	// Registries are the hosts of the images, CloudsmithHosts if none.
	Registries []string
	// Org and Service are the slugs of the organisation and of the service
	// account to act as.
	Org, Service Choice
	// New makes the exchange for both.
	New func(org, service string) (exchange.Exchanger, error)
}

// Cloudsmith gets credentials of Cloudsmith. A credential is of one
// organisation: on Cloudsmith's own host its key is the organisation's path
// (with the final slash: kubelet compares paths as text, and acme would match
// acme-other too), and images of others are not exchanged for. That is an error
// and no empty answer: kubelet pulls without a credential after either, as
// public images need it, and tells the cause after an error only.
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
				return nil, fmt.Errorf("the image is of the organisation %.100q and this pod's credentials are of %q (annotation %s, or the node's --org): nothing was exchanged, and only a public image can be pulled",
					image.folder(), org, CloudsmithOrgAnnotation)
			}
			key = pathKey(image.Host, org)
		}
		return &Access{Exchanger: exchanger, Key: key, Asked: explain.Options{Service: verify.Cloudsmith, Org: org, ServiceSlug: service}}, nil
	}
}
