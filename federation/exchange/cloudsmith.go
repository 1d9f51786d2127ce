package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// CloudsmithURL is the address of Cloudsmith's API.
const CloudsmithURL = "https://api.cloudsmith.io"

// CloudsmithConfig names an organisation's service account.
type CloudsmithConfig struct {
	// Org is the slug of the organisation (workspace), and Service that of
	// the service account.
	Org, Service string
	// URL is the base of the API, CloudsmithURL if empty. It must be https,
	// or on loopback.
	URL string
	Calling
}

// Cloudsmith returns the exchange at Cloudsmith: POST /openid/ORG/
// (cloudsmith-io/cloudsmith-api-go, api/openapi.yaml).
func Cloudsmith(config CloudsmithConfig) (Exchanger, error) {
	if config.URL == "" {
		config.URL = CloudsmithURL
	}
	base, err := serviceURL(config.URL)
	if err != nil {
		return nil, fmt.Errorf("the address of Cloudsmith: %w", err)
	}
	if err := errors.Join(checkSlug("organisation", config.Org), checkSlug("service account", config.Service)); err != nil {
		return nil, err
	}
	c := &cloudsmith{service: config.Service, caller: caller{Calling: config.Calling, service: "Cloudsmith", reason: cloudsmithReason}}
	// Cloudsmith's path ends in a slash.
	c.target = base.JoinPath("openid", url.PathEscape(config.Org), "/").String()
	return c, nil
}

func checkSlug(what, slug string) error {
	const most = 200
	if len(slug) > most || strings.Trim(slug, ".") == "" || !plain(slug, "-_.") {
		return fmt.Errorf("%q is not the slug of a Cloudsmith %s: use letters, digits, and - _ . between them", httpx.MaskForeign(slug), what)
	}
	return nil
}

type cloudsmith struct {
	caller
	target, service string
}

func (c *cloudsmith) Exchange(ctx context.Context, subject discovery.Token) (Credential, error) {
	if err := checkSubject(subject); err != nil {
		return Credential{}, err
	}
	body, err := json.Marshal(map[string]string{"oidc_token": subject.Reveal(), "service_slug": c.service})
	if err != nil {
		return Credential{}, err
	}
	var issued struct {
		Token string `json:"token"`
	}
	if err := c.post(ctx, c.target, http.Header{"Content-Type": {"application/json"}}, body, &issued, subject.Reveal()); err != nil {
		return Credential{}, err
	}
	claims, _ := discovery.NewToken(issued.Token).Claims() // an opaque token has no expiry
	if claims.Expiry.Unix() <= 0 {
		claims.Expiry = time.Time{}
	}
	return c.credential("token", issued.Token, claims.Expiry, subject.Reveal())
}

// cloudsmithReason parses ErrorDetail of Cloudsmith's API. It ignores each
// member of an unexpected type.
func cloudsmithReason(body []byte) (code, text string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(body, &members)
	var detail string
	for _, name := range []string{"error", "detail"} {
		var given string
		if json.Unmarshal(members[name], &given) == nil && given != "" {
			detail = given
		}
	}
	parts := []string{detail}
	var fields map[string][]string
	_ = json.Unmarshal(members["fields"], &fields)
	names := slices.Sorted(maps.Keys(fields))
	const most = 5
	for _, name := range names[:min(len(names), most)] {
		parts = append(parts, name+": "+strings.Join(fields[name], " "))
	}
	return "", joined("; ", parts...)
}
