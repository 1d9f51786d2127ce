package pullsecret

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"oidc-publisher/federation/exchange"
)

// dockerConfig is the part of a docker config.json that a pull secret holds.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// DockerConfig is the credential as a docker config.json, the content of a pull
// secret, for each of the registries (see ParseRegistry).
func DockerConfig(registries []string, c exchange.Credential) ([]byte, error) {
	password := c.Password.Reveal()
	entry := dockerAuth{c.Username, password, base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + password))}
	config := dockerConfig{Auths: map[string]dockerAuth{}}
	for _, registry := range registries {
		config.Auths[registry] = entry
	}
	return json.Marshal(config)
}

// ParseRegistry reads HOST[:PORT][/PATH] and returns it as the key of an auths
// entry. A path ends in a slash there: the kubelet takes a path for a prefix of
// the image's name, so that host/org would match host/org-of-others/image too.
// Clients other than the kubelet may know hosts only.
func ParseRegistry(s string) (string, error) {
	u, err := url.Parse("https://" + s)
	switch {
	case err != nil, u.Host == "", u.Hostname() == "", u.User != nil, u.RawQuery != "", u.Fragment != "",
		strings.ContainsAny(s, " \t\r\n\"\\*?#%@"), strings.Contains(u.Path, "//"), strings.HasSuffix(u.Host, ":"), len(s) > maxRegistry:
		return "", fmt.Errorf("registry %.80q must be written as HOST, HOST:PORT or HOST/PATH, without https://", s)
	case u.Host != strings.ToLower(u.Host):
		return "", fmt.Errorf("registry %q must be in lower case", s)
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		return u.Host + "/" + path + "/", nil
	}
	return u.Host, nil
}

// maxRegistry is that of a host name and then some, in bytes.
const maxRegistry = 512
