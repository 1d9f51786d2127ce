package e2e

import (
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"

	"oidc-publisher/internal/cli"
)

// TestAPIServerFaults: whatever the API server does, nothing public changes by
// it, and the error names the failure, the server and the fix.
func TestAPIServerFaults(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256"})
	dir, public := l.local("public")
	l.internet.Route("issuer.example.com", routed(public))
	args := []string{"publish", "--kubeconfig", kubeconfig, "--to", dir, "--log-level", "debug"}
	l.must(cli.ExitDone, args...)
	before, touched := l.documents(public), times(t, dir)
	if _, err := api.Rotate("ES384"); err != nil { // there is something to publish
		t.Fatal(err)
	}
	at := "API server " + api.Address()
	const everywhere, keys = "", "/" + discovery.JWKSPath
	breaks := func(path string, fault fake.Fault) func() { return func() { api.Break(path, fault) } }
	keySet := func(body string) func() {
		return breaks(keys, fake.FaultBody(http.StatusOK, "application/jwk-set+json", body))
	}
	for name, test := range map[string]struct {
		code  int
		fault func()
		args  []string
		want  []string
	}{
		"down":              {cli.ExitFailed, api.Stop, nil, []string{at, "can't connect", "is down, or the kubeconfig names a wrong address"}},
		"silent":            {cli.ExitFailed, breaks(everywhere, fake.FaultHang()), []string{"--timeout", "1s"}, []string{at, "no answer", "--timeout is 1s"}},
		"slow":              {cli.ExitFailed, breaks(everywhere, fake.FaultSlow(time.Minute)), []string{"--timeout", "1s"}, []string{at, "no answer", "--timeout is 1s"}},
		"slow keys":         {cli.ExitFailed, breaks(keys, fake.FaultSlow(time.Minute)), []string{"--timeout", "1s"}, []string{at, "no answer", "--timeout is 1s"}},
		"login page":        {cli.ExitFailed, breaks(everywhere, fake.FaultHTML()), nil, []string{at, "text/html", "login page or gateway", "set the kubeconfig's server"}},
		"login page, later": {cli.ExitFailed, breaks(keys, fake.FaultHTML()), nil, []string{at, keys, "login page or gateway"}},
		"broken connection": {cli.ExitFailed, breaks(everywhere, fake.FaultTruncated()), nil, []string{at, "/.well-known/openid-configuration", "try again"}},
		"half a document":   {cli.ExitFailed, breaks(everywhere, fake.FaultBody(http.StatusOK, "application/json", `{"issuer":`)), nil, []string{at, "not valid JSON"}},
		"huge":              {cli.ExitFailed, breaks(everywhere, fake.FaultHuge()), nil, []string{at, "larger than", "not the document of an API server"}},
		"redirect":          {cli.ExitFailed, breaks(everywhere, fake.FaultRedirect("https://elsewhere.example.com/")), nil, []string{at, `redirects`, `"elsewhere.example.com"`, "set the kubeconfig's server"}},
		"401":               {cli.ExitFailed, breaks(everywhere, fake.FaultStatus(http.StatusUnauthorized)), nil, []string{at, "HTTP 401", "renew the kubeconfig"}},
		"403":               {cli.ExitFailed, breaks(everywhere, fake.FaultBody(http.StatusForbidden, "text/plain", "")), nil, []string{at, "HTTP 403", "proxies and firewalls on the way"}},
		"429":               {cli.ExitFailed, breaks(everywhere, fake.FaultStatus(http.StatusTooManyRequests)), nil, []string{at, "HTTP 429", "try again later, after at least 7 s"}},
		"500":               {cli.ExitFailed, breaks(everywhere, fake.FaultStatus(http.StatusInternalServerError)), nil, []string{at, "HTTP 500", "its log says why"}},
		"500 for the keys":  {cli.ExitFailed, breaks(keys, fake.FaultStatus(http.StatusInternalServerError)), nil, []string{at, keys, "HTTP 500"}},
		"500 for the UID":   {cli.ExitFailed, breaks("/api/v1/namespaces/kube-system", fake.FaultStatus(http.StatusInternalServerError)), nil, []string{at, "HTTP 500"}},
		"no keys":           {cli.ExitRefused, keySet(`{"keys":[]}`), nil, []string{at, "no usable key"}},
		"a private key":     {cli.ExitRefused, keySet(`{"keys":[{"kty":"EC","kid":"x","crv":"P-256","d":"AAAA","x":"AAAA","y":"AAAA"}]}`), nil, []string{at, `key "x"`, "private"}},
		"another issuer":    {cli.ExitRefused, func() { api.SetIssuer("https://other.example.com") }, nil, []string{labIssuer, "https://other.example.com", "--take-over"}},
		"not --issuer": {cli.ExitRefused, func() {}, []string{"--issuer", "https://other.example.com"}, []string{labIssuer, "https://other.example.com",
			"--service-account-issuer=https://other.example.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := l.in(t)
			test.fault()
			defer func() {
				api.Repair()
				api.SetIssuer(labIssuer)
				if err := api.Start(); err != nil {
					t.Fatal(err)
				}
			}()
			begun := time.Now()
			got := l.must(test.code, append(slices.Clone(args), test.args...)...)
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, want := range test.want {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("the error does not say %q:\n%s", want, got.stderr)
				}
			}
			if strings.Contains(got.stderr, "secret-of-the-page") {
				t.Error("the error contains the login page")
			}
			if after := l.documents(public); after != before {
				t.Errorf("what is public changed from %+v to %+v", before, after)
			}
			for path, now := range times(t, dir) {
				if !now.Equal(touched[path]) {
					t.Errorf("%s was touched", path)
				}
			}
		})
	}
	l.must(cli.ExitDone, args...)
	l.wantWhole(public, labIssuer, api.KeyIDs()...)
}

// TestFullDisk: a full disk costs nothing that was there, leaves nothing
// behind, and once there is room all goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if os.Geteuid() != 0 {
		testserver.Missing(t, "mounting a small disk takes root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		testserver.Missing(t, "mounting a small disk: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(disk, "ballast")
	fill := func() {
		t.Helper()
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
			t.Fatal(err)
		}
	}
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer, Algorithm: "ES256"})
	dir := filepath.Join(disk, "public")
	public := fake.Website(dir)
	l.internet.Route("issuer.example.com", routed(public))
	wantFull := func() {
		t.Helper()
		got := l.must(cli.ExitFailed, "publish", "--kubeconfig", kubeconfig, "--to", dir)
		for _, want := range []string{dir, syscall.ENOSPC.Error(), "make room"} {
			if !strings.Contains(got.stderr, want) {
				t.Errorf("the error does not say %q:\n%s", want, got.stderr)
			}
		}
	}
	free := func() {
		t.Helper()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		l.publish("--kubeconfig", kubeconfig, "--to", dir)
		l.wantWhole(public, labIssuer, api.KeyIDs()...)
		wantList(t, "files", filesIn(t, dir), publish.StateName, discovery.ConfigurationPath, discovery.JWKSPath)
	}

	fill()
	wantFull()
	wantList(t, "files", filesIn(t, dir))
	free()

	before := l.documents(public)
	if _, err := api.Rotate("ES384"); err != nil {
		t.Fatal(err)
	}
	fill()
	wantFull()
	if after := l.documents(public); after != before {
		t.Errorf("what is public changed from %+v to %+v", before, after)
	}
	wantList(t, "files", filesIn(t, dir), publish.StateName, discovery.ConfigurationPath, discovery.JWKSPath)
	free()
}

// filesIn are the names of all files below a directory, hidden ones too.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestKilled ends the program with SIGKILL somewhere between its fetch of the
// keys and its end. Each time the cluster is one step further in an endless
// rotation: its next key is new, the last but one is gone, and the key that
// signs was public before and will be after.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"dir", "s3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind)
			fetched := make(chan struct{}, 1)
			s.api.Break("/"+discovery.JWKSPath, fake.FaultBefore(func() {
				select {
				case fetched <- struct{}{}:
				default: // a run may fetch the keys more than once
				}
			}))
			forget := func() {
				select {
				case <-fetched:
				default:
				}
			}
			step := func(algorithm string) {
				t.Helper()
				if _, err := s.api.AddKey(algorithm); err != nil {
					t.Fatal(err)
				}
				if err := s.api.SignWith(s.api.KeyIDs()[1]); err != nil {
					t.Fatal(err)
				}
				s.api.RemoveKey(s.api.KeyIDs()[0])
			}
			// Three algorithms for two keys: the document changes each time.
			algorithms := []string{"ES512", "ES256", "ES384"}
			if _, err := s.api.AddKey("ES384"); err != nil {
				t.Fatal(err)
			}
			heal := func() {
				t.Helper()
				s.publish(append(s.args, "--no-verify")...)
			}
			heal()
			window := 100 * time.Millisecond
			outcomes := map[string]int{}
			for n := range 52 {
				before := s.documents(s.public(s.name))
				step(algorithms[n%3])
				forget()
				victim := s.start(nil, append([]string{"publish", "--no-verify"}, s.args...)...)
				select {
				case <-fetched:
				case <-time.After(time.Minute):
					t.Fatal("it never fetched the keys")
				}
				time.Sleep(rand.N(window)) // the random moment
				if err := victim.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				victim.wait()
				during := s.documents(s.public(s.name))
				heal()
				after := s.documents(s.public(s.name))
				s.wantWhole(s.public(s.name), labIssuer, s.api.KeyIDs()...)
				if !strings.Contains(during.keys, s.api.SigningKeyID()) {
					t.Errorf("the key that signs is not public: %s", during.keys)
				}
				// The window follows the machine's speed, so that most kills
				// fall among the writes.
				switch during {
				case before:
					outcomes["nothing"]++
					window += window / 4
				case documents{after.keys, before.configuration}:
					outcomes["keys"]++
				case after:
					outcomes["all"]++
					window -= window / 5
				default:
					t.Fatalf("half published: %+v\nbefore: %+v\nafter: %+v", during, before, after)
				}
			}
			t.Logf("when it was killed it had published: %v", outcomes)
			if outcomes["nothing"] == 0 || outcomes["keys"]+outcomes["all"] == 0 {
				t.Errorf("it was always killed too early or too late: %v", outcomes)
			}
			s.wantIdle()
			if kind == "dir" {
				wantList(t, "files", filesIn(t, s.target(s.name)), publish.StateName, discovery.ConfigurationPath, discovery.JWKSPath)
			}
		})
	}
}

// TestNoCredentialOnTheCommandLine: everybody on a machine may read
// /proc/PID/cmdline, so a credential that is written there is refused and not
// repeated.
func TestNoCredentialOnTheCommandLine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	const secret = "wJalrXUtnFEMI"
	l.env, l.secrets = append(l.env, "KUBECONFIG="+kubeconfig), append(l.secrets, secret)
	for _, args := range [][]string{
		{"publish", "--to", "s3://AKIA:" + secret + "@bucket"},
		{"publish", "--to", "s3://bucket?secret-key=" + secret},
		{"publish", "--to", "s3://bucket?endpoint=https://user:" + secret + "@s3.example.com"},
		{"publish", "--to", "gs://" + secret + "@bucket"},
		{"publish", "--to", "https://user:" + secret + "@example.com/bucket"},
		{"publish", "--token=" + secret},
		{"publish", "--token", secret},
		{"publish", "--issuer", "https://user:" + secret + "@issuer.example.com", "--to", "public"},
		{"verify", "--token", secret, labIssuer},
		{"verify", "https://user:" + secret + "@issuer.example.com", "--mint", "default/default"},
	} {
		l.must(cli.ExitUsage, args...)
	}
	const token = jwtHeader + "JSUzI1NiJ9.eyJpc3MiOiJpIn0.c2VhbC1vZi1hLXRva2Vu" // lab looks for its beginning
	l.secrets = append(l.secrets, token, "c2VhbC1vZi1hLXRva2Vu")
	atCloudsmith, secretName := []string{"--org", "acme", "--service-slug", "s"}, []string{"--secret-name", "s", "--namespace", token}
	for _, args := range [][]string{
		slices.Concat([]string{"exchange", "cloudsmith", "--token-file", token}, atCloudsmith),
		slices.Concat([]string{"exchange", "cloudsmith", token}, atCloudsmith),
		{"exchange", token},
		{token},
		{"publish", "--" + token},
		{"exchange", "cloudsmith", "--org", token, "--service-slug", token, "--token-file", token},
		{"exchange", "gcp", "--credential-config", token},
		{"exchange", "gcp", "--provider", token},
		slices.Concat([]string{"pull-secret", "cloudsmith", "--token-file", token}, atCloudsmith, secretName),
		slices.Concat([]string{"pull-secret", "cloudsmith", "--token-file", token, "--output", "json", "--log-format", "json"}, atCloudsmith, secretName),
		slices.Concat([]string{"pull-secret", "cloudsmith", token}, atCloudsmith, secretName),
		{"verify", labIssuer, "--token-file", token},
		{"verify", token},
		{"verify", labIssuer, token},
		{"verify", labIssuer, "--mint", token, "--audience", "a"},
		{"credential-provider", "cloudsmith", token},
	} {
		if got := l.run(args...); got.code == cli.ExitDone || !strings.Contains(got.stdout+got.stderr, "[masked]") {
			t.Errorf("%v: exit code %d: %s", args[:2], got.code, got.stderr)
		}
	}
	r := l.start([]string{"OIDC_PUBLISHER_TOKEN_FILE=" + token}, slices.Concat([]string{"exchange", "cloudsmith"}, atCloudsmith)...)
	if got := r.wait(); got.code == cli.ExitDone || !strings.Contains(got.stdout+got.stderr, "[masked]") {
		t.Errorf("by the environment: exit code %d: %s", got.code, got.stderr)
	}
}
