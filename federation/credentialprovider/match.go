package credentialprovider

import (
	"net/url"
	"path"
	"strings"
)

// Matches reports whether a pattern of matchImages, or an auth key, matches an
// image by kubelet's rules: the host label by label, where * matches (a part of)
// one label; the same port; and the path as a literal prefix
// (kubernetes pkg/credentialprovider, URLsMatch).
func Matches(pattern, image string) (bool, error) {
	p, err := url.Parse("https://" + pattern)
	if err != nil {
		return false, err
	}
	i, err := url.Parse("https://" + image)
	if err != nil {
		return false, err
	}
	if !strings.HasPrefix(i.Path, p.Path) {
		return false, nil
	}
	for _, label := range strings.Split(p.Hostname(), ".") {
		if _, err := path.Match(label, ""); err != nil {
			return false, err
		}
	}
	return matchHost(p.Host, i.Host), nil
}
