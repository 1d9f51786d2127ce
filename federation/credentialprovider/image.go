package credentialprovider

import (
	"fmt"
	"path"
	"strings"
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
	if len(name) > 300 || strings.ContainsFunc(name, unusual) {
		return fmt.Sprintf("%.300q", name)
	}
	return name
}

func unusual(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:[]", r)
}

// ofAny reports whether the image's registry is one of the hosts. As in
// kubelet's patterns, * matches (a part of) one label of the name.
func (i Image) ofAny(hosts []string) bool {
	for _, host := range hosts {
		if matchHost(host, i.Host) {
			return true
		}
	}
	return false
}

// matchHost compares the name label by label, and the port exactly.
func matchHost(pattern, host string) bool {
	pattern, patternPort := cutPort(pattern)
	host, hostPort := cutPort(host)
	patterns, labels := strings.Split(pattern, "."), strings.Split(host, ".")
	if patternPort != hostPort || len(patterns) != len(labels) {
		return false
	}
	for i, label := range labels {
		if matched, err := path.Match(patterns[i], label); err != nil || !matched {
			return false
		}
	}
	return true
}

func cutPort(host string) (name, port string) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		return host[:i], host[i+1:]
	}
	return host, ""
}

// checkRegistry refuses a value that is not a host.
func checkRegistry(host string) error {
	if _, err := path.Match(host, ""); err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("--registry %q is not a host: use HOST or HOST:PORT, like docker.example.com", host)
	}
	return nil
}

// within reports whether the repository is below a folder.
func (i Image) within(folder string) bool { return strings.HasPrefix(i.Path, folder+"/") }

// pathKey returns the auth key for the images below a folder of a registry.
// kubelet drops a leading /v1 or /v2 from the path of a key, because Docker's
// configuration may contain the path of the API; a second one stays.
func pathKey(host, folder string) string {
	if folder == "v1" || folder == "v2" {
		folder = "v2/" + folder
	}
	return host + "/" + folder + "/"
}

// folder is the first part of the repository.
func (i Image) folder() string {
	first, _, _ := strings.Cut(i.Path, "/")
	return first
}
