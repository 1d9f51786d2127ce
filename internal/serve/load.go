package serve

import (
	"context"
	"fmt"

	"oidc-publisher/discovery"
	"oidc-publisher/publish"
)

// Load serves what a store holds, if it is a pair fit to be served, and reports
// whether that is another than before. On error what was served stays. An issuer
// that is not "" must be the document's own.
//
// The document is read first: a publisher writes it last, so the keys that are
// read after it are never older than it.
func (s *Site) Load(ctx context.Context, store publish.Backend, issuer discovery.Issuer) (changed bool, err error) {
	document, err := store.Get(ctx, discovery.ConfigurationPath)
	if err != nil {
		return false, err
	}
	keys, err := store.Get(ctx, discovery.JWKSPath)
	if err != nil {
		return false, err
	}
	if err := judge(document, keys, issuer); err != nil {
		return false, err
	}
	return s.Place(publish.Described(document), publish.Described(keys))
}

func judge(document, keys publish.Object, issuer discovery.Issuer) error {
	parsed, err := discovery.ParseDocument(document.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", document.Name, err)
	}
	if issuer != "" && issuer != parsed.Issuer() {
		return fmt.Errorf("%s is of the issuer %q and not %q: relying parties compare them byte for byte", document.Name, parsed.Issuer(), issuer)
	}
	if want := parsed.Issuer().JWKSURI(); parsed.JWKSURI() != want {
		return fmt.Errorf("%s: its jwks_uri is %q and not %q: it was not published by this tool, so give it to --from", document.Name, parsed.JWKSURI(), want)
	}
	if _, err := discovery.ParseKeySet(keys.Body); err != nil {
		return fmt.Errorf("%s: %w", keys.Name, err)
	}
	return nil
}
