package credentialprovider

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"
)

// Image is an image reference, parsed as kubelet does.
type Image struct {
	// Host is the registry, with its port if the reference has one.
	Host string
	// Path is the repository without tag and digest, without a leading slash.
	Path string
}

// ParseImage parses a reference. The default registry is Docker Hub.
func ParseImage(reference string) Image {
	name, _, _ := strings.Cut(reference, "@")
	host, rest, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", name
	}
	rest, _, _ = strings.Cut(rest, ":")
	return Image{Host: host, Path: rest}
}

// String returns the reference, bounded, and quoted if it has unusual characters.
func (i Image) String() string {
	name := i.Host + "/" + i.Path
	unusual := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-/:[]", r)
	}
	if len(name) > 300 || strings.ContainsFunc(name, unusual) {
		return fmt.Sprintf("%.300q", name)
	}
	return name
}

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
	if err != nil || !strings.HasPrefix(i.Path, p.Path) {
		return false, err
	}
	for label := range strings.SplitSeq(p.Hostname(), ".") {
		if _, err := path.Match(label, ""); err != nil {
			return false, err
		}
	}
	return matchHost(p.Host, i.Host), nil
}

// matchHost compares the name label by label, and the port exactly.
func matchHost(pattern, host string) bool {
	p, h := url.URL{Host: pattern}, url.URL{Host: host}
	patterns, labels := strings.Split(p.Hostname(), "."), strings.Split(h.Hostname(), ".")
	if p.Port() != h.Port() || len(patterns) != len(labels) {
		return false
	}
	for i, label := range labels {
		if matched, err := path.Match(patterns[i], label); err != nil || !matched {
			return false
		}
	}
	return true
}
