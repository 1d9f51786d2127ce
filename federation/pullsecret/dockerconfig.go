package pullsecret

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"oidc-publisher/federation/exchange"
)

// dockerConfig is the part of a Docker config.json that a pull secret contains.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// DockerConfig renders the credential as a Docker config.json, the content of a
// pull secret, for each of the registries (see ParseRegistry).
func DockerConfig(registries []string, c exchange.Credential) ([]byte, error) {
	password := c.Password.Reveal()
	entry := dockerAuth{c.Username, password, base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + password))}
	config := dockerConfig{Auths: map[string]dockerAuth{}}
	for _, registry := range registries {
		config.Auths[registry] = entry
	}
	return json.Marshal(config)
}

// ParseRegistry parses HOST[:PORT][/PATH] and returns the key of an auths entry.
// A path ends in a slash there: kubelet treats it as a prefix of the image name,
// so host/org would also match host/org-of-others/image. Other clients may
// support hosts only.
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

// maxRegistry bounds the length of a registry in bytes.
const maxRegistry = 512
