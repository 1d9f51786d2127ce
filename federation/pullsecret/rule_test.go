package pullsecret

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/internal/fake"
)

// TestErrorsOfTheAPIServer: each says what is wrong, at which server and in
// which namespace, and what to do.
func TestErrorsOfTheAPIServer(t *testing.T) {
	breaking := func(fault fake.Fault) func(*fake.APIServer, *fake.Kubeconfig) {
		return func(e *fake.APIServer, _ *fake.Kubeconfig) { e.Break("", fault) }
	}
	for _, c := range []struct {
		name    string
		arrange func(*fake.APIServer, *fake.Kubeconfig)
		want    []string
	}{
		{"unknown token", func(_ *fake.APIServer, k *fake.Kubeconfig) { k.Token = "stale-secret" }, []string{"HTTP 401", "expired", "renew the kubeconfig"}},
		{"nothing listens", func(e *fake.APIServer, _ *fake.Kubeconfig) { e.Stop() }, []string{"can't connect", "wrong address or port"}},
		{"CA of another cluster", func(_ *fake.APIServer, k *fake.Kubeconfig) {
			k.CA = fake.StartAPIServer(t, fake.APIServerOptions{}).CA()
		}, []string{"not issued by the CA", "certificate-authority-data"}},
		{"firewall", breaking(fake.FaultBody(403, "text/html", "secret-of-the-page")), []string{"not allowed to", "namespace a", "HTTP 403", "not from an API server", "firewall"}},
		{"proxy", breaking(fake.FaultBody(502, "text/html", "secret-of-the-page")), []string{"HTTP 502", "not from an API server", "proxy"}},
		{"web server", breaking(fake.FaultBody(405, "text/html", "secret-of-the-page")), []string{"HTTP 405", "not from an API server", "proxy"}},
		{"redirect", breaking(fake.FaultRedirect("https://login.example.com/")), []string{"redirects", "HTTP 302", "kubeconfig's server"}},
		{"no answer", breaking(fake.FaultHang()), []string{"no answer before the deadline"}},
		{"admission", breaking(fake.FaultBody(403, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"admission webhook \"w\" denied the request"}`)),
			[]string{`admission webhook "w" denied the request`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := fake.StartAPIServer(t, fake.APIServerOptions{})
			k := e.Kubeconfig("publisher")
			c.arrange(e, &k)
			file := filepath.Join(t.TempDir(), "kubeconfig")
			if err := k.Write(file); err != nil {
				t.Fatal(err)
			}
			source, err := kube.New(kube.Config{Kubeconfig: file})
			if err != nil {
				t.Fatal(err)
			}
			cluster, err := Connect(source.RESTConfig(), source.Explain)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.name == "no answer" {
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			}
			w := &writer{cluster: cluster, secret: Secret{Name: "regcred"}, attach: []string{"default"}}
			_, changed := cluster.changePullSecrets(ctx, "a", "default", withSecret("regcred"), false)
			for what, err := range map[string]error{"secret": w.write(ctx, "a", credential{}, nil, version{}).Err, "service account": changed} {
				if err == nil {
					t.Fatal("no error")
				}
				where := "API server " + e.Address()
				if c.name == "admission" {
					where = ""
				}
				for _, want := range append(c.want, where) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %q is not in: %v", what, want, err)
					}
				}
				if strings.Contains(err.Error(), k.Token) || strings.Contains(err.Error(), "secret-of-the-page") {
					t.Errorf("%s: repeats a secret: %v", what, err)
				}
				if !strings.HasPrefix(err.Error(), "secret a/regcred: ") && what == "secret" {
					t.Error(err)
				}
			}
		})
	}
}
