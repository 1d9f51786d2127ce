package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// subject is a token for Cloudsmith, of an issuer that does not exist.
const subject = "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOlsiaHR0cHM6Ly9hcGkuY2xvdWRzbWl0aC5pbyJdLCJpc3MiOiJodHRwczovL2lzc3Vlci5pbnZhbGlkIiwic3ViIjoibm9ib2R5In0.c2VhbA"

const request = `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest",
"image":"docker.cloudsmith.io/acme/app","serviceAccountToken":"` + subject + `"}`

// service answers an exchange with a status and records the path.
func service(t *testing.T, status int, body string) (url string, path *string) {
	t.Helper()
	path = new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*path = r.URL.Path
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL, path
}

func TestRun(t *testing.T) {
	good, asked := service(t, http.StatusCreated, `{"token":"opaque"}`)
	bad, _ := service(t, http.StatusBadRequest, `{"detail":"a\nb `+subject+`"}`)
	flags := []string{"--org", "acme", "--service-slug", "puller", "--cloudsmith-url"}
	for _, c := range []struct {
		name    string
		program string
		args    []string
		env     [2]string
		code    int
		stdout  string
		stderr  string
	}{
		{"by argument", "oidc-publisher-credential-provider", append([]string{"cloudsmith"}, append(flags, good)...), [2]string{}, exitDone, `"password":"opaque"`, ""},
		{"by name", "/usr/local/bin/oidc-publisher-credential-provider-cloudsmith", append(flags, good), [2]string{}, exitDone, `"password":"opaque"`, ""},
		{"by Cloudsmith's name", "cloudsmith-kubernetes-credential-provider", append(flags, good), [2]string{}, exitDone, `"password":"opaque"`, ""},
		{"environment", "oidc-publisher-credential-provider", append([]string{"cloudsmith"}, append(flags[2:], good)...), [2]string{"CLOUDSMITH_ORG_SLUG", "acme"}, exitDone, `"password":"opaque"`, ""},
		{"a flag wins", "oidc-publisher-credential-provider", append([]string{"cloudsmith"}, append(flags, good)...), [2]string{"OIDC_PUBLISHER_ORG", "other"}, exitDone, `"password":"opaque"`, ""},
		{"an invalid variable", "oidc-publisher-credential-provider", append([]string{"cloudsmith"}, append(flags, good)...), [2]string{"OIDC_PUBLISHER_REGISTRY", "a,b/c"}, exitUsage, "", `error: environment variable OIDC_PUBLISHER_REGISTRY: --registry "b/c" is not a host`},
		{"refused", "oidc-publisher-credential-provider", append([]string{"cloudsmith"}, append(flags, bad)...), [2]string{}, exitFailed, "", "error: image docker.cloudsmith.io/acme/app: Cloudsmith refused the token (HTTP 400): a b [masked]; likely cause: "},
		{"no provider", "oidc-publisher-credential-provider", nil, [2]string{}, exitUsage, "", "which provider?"},
		{"another provider", "oidc-publisher-credential-provider", []string{"quay"}, [2]string{}, exitUsage, "", `unknown provider "quay"`},
		{"another flag", "oidc-publisher-credential-provider-gcp", []string{"--org", "acme"}, [2]string{}, exitUsage, "", "-org"},
		{"too long", "oidc-publisher-credential-provider-gcp", []string{"--timeout", "2m"}, [2]string{}, exitUsage, "", "--timeout"},
		{"no unit", "oidc-publisher-credential-provider-gcp", []string{"--timeout", "25"}, [2]string{}, exitUsage, "", "--timeout 25: use a unit, such as 25s"},
		{"stray", "oidc-publisher-credential-provider-gcp", []string{"extra"}, [2]string{}, exitUsage, "", `unexpected argument "extra"`},
		{"a stray token", "oidc-publisher-credential-provider-gcp", []string{subject}, [2]string{}, exitUsage, "", `unexpected argument "[masked]"`},
		{"a token for a flag's value", "oidc-publisher-credential-provider-gcp", []string{"--timeout", subject}, [2]string{}, exitUsage, "", "[masked]"},
		{"help", "oidc-publisher-credential-provider", []string{"gcp", "--help"}, [2]string{}, exitDone, "-provider NAME", ""},
		{"version", "oidc-publisher-credential-provider", []string{"--version"}, [2]string{}, exitDone, "oidc-publisher-credential-provider ", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"CLOUDSMITH_ORG", "CLOUDSMITH_ORG_SLUG", "CLOUDSMITH_SERVICE_SLUG", "OIDC_PUBLISHER_ORG", "OIDC_PUBLISHER_REGISTRY"} {
				t.Setenv(name, "")
			}
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			*asked = ""
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{c.program}, c.args...), strings.NewReader(request), &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
			}
			if code != exitDone && (stdout.Len() > 0 || strings.Contains(stderr.String(), "\n")) {
				t.Errorf("a failure must have one line on stderr and nothing on stdout: %q, %q", &stdout, &stderr)
			}
			if strings.Contains(stdout.String()+stderr.String(), subject[:30]) {
				t.Error("the output has the token")
			}
			if c.stdout == `"password":"opaque"` && *asked != "/openid/acme/" {
				t.Errorf("asked %q", *asked)
			}
		})
	}
}
