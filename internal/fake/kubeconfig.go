package fake

import (
	"encoding/json"
	"os"
)

// Kubeconfig is the content of a kubeconfig file with one context.
type Kubeconfig struct {
	// Server is the URL.
	Server string
	// CA are the trusted certificates in PEM, none for the system's.
	CA []byte
	// Token and TokenFile are ways to carry a bearer token.
	Token, TokenFile string
	// Certificate and Key are a client certificate in PEM.
	Certificate, Key []byte
	// TLSServerName is the name to verify instead of the server's.
	TLSServerName string
	// ProxyURL is a proxy on the way.
	ProxyURL string
	// Insecure switches the verification of the server off.
	Insecure bool
	// Context is the name of the one context, "test" if empty.
	Context string
	// Namespace is that of the context.
	Namespace string
}

// Write writes the file, readable by its owner alone. A kubeconfig may be
// JSON, which is YAML.
func (k Kubeconfig) Write(path string) error {
	name := k.Context
	if name == "" {
		name = "test"
	}
	cluster := map[string]any{"server": k.Server}
	user := map[string]any{}
	set := func(into map[string]any, key string, value any, given bool) {
		if given {
			into[key] = value
		}
	}
	set(cluster, "certificate-authority-data", k.CA, len(k.CA) > 0)
	set(cluster, "tls-server-name", k.TLSServerName, k.TLSServerName != "")
	set(cluster, "proxy-url", k.ProxyURL, k.ProxyURL != "")
	set(cluster, "insecure-skip-tls-verify", true, k.Insecure)
	context := map[string]any{"cluster": name, "user": name}
	set(context, "namespace", k.Namespace, k.Namespace != "")
	set(user, "token", k.Token, k.Token != "")
	set(user, "tokenFile", k.TokenFile, k.TokenFile != "")
	set(user, "client-certificate-data", k.Certificate, len(k.Certificate) > 0)
	set(user, "client-key-data", k.Key, len(k.Key) > 0)
	data, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": cluster}},
		"users":    []any{map[string]any{"name": name, "user": user}},
		"contexts": []any{map[string]any{"name": name, "context": context}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
