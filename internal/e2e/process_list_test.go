package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"oidc-publisher/internal/fake"
)

// TestNoTokenInTheProcessList looks at what /proc tells of the program and its
// children while it has a token or a credential in hand. Whoever is asked looks
// before the answer; a credential that is written to standard output is larger
// than the pipe, so the program still has it when its first byte comes out.
func TestNoTokenInTheProcessList(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	small, err := builtProvider()
	if err != nil {
		t.Fatal(err)
	}
	cloudsmith, google := fake.StartCloudsmith(t, l.internet), fake.StartGoogle(t, l.internet)
	l.internet.Route("api.cloudsmith.io", cloudsmith)
	l.internet.Route("sts.googleapis.com", google)
	l.internet.Route("iamcredentials.googleapis.com", google)
	api, kubeconfig := l.embedded(fake.APIServerOptions{Issuer: labIssuer})
	api.AddServiceAccount("team", "puller")
	subject, err := api.MintToken("team", "puller", "relying-party", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.dir, "token")
	if err := os.WriteFile(file, []byte(subject), 0o600); err != nil {
		t.Fatal(err)
	}
	federated, issued := "ya29.d."+rand.Text(), strings.Repeat(rand.Text(), 1<<10)
	l.secrets = append(l.secrets, subject, federated, issued)

	arrivals := make(chan arrival)
	const secretPath = "/api/v1/namespaces/default/secrets/regcred"
	api.Break(secretPath, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				fake.FaultStatus(http.StatusNotFound)(next).ServeHTTP(w, r)
				return
			}
			held(arrivals, fake.AnswerWith(http.StatusCreated, `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":"regcred","namespace":"default"}}`))(w, r)
		})
	})
	answer := func(status int, body map[string]any) http.HandlerFunc {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return held(arrivals, fake.AnswerWith(status, string(text)))
	}
	// stops is what the program has in hand at each.
	services := map[string]func() (stops []string){
		"cloudsmith": func() []string {
			cloudsmith.Next(answer(http.StatusCreated, map[string]any{"token": issued}))
			return []string{subject, issued}
		},
		"gcp": func() []string {
			google.Next(
				answer(http.StatusOK, map[string]any{"access_token": federated, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 3600}),
				answer(http.StatusOK, map[string]any{"accessToken": issued, "expireTime": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}))
			return []string{subject, federated, issued}
		},
	}
	request := func(image string) string {
		return fmt.Sprintf(`{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","image":%q,"serviceAccountToken":%q}`, image, subject)
	}
	toCloudsmith, toGoogle := request(cloudsmithsApp), request(googlesApp)
	secret := []string{"--kubeconfig", kubeconfig, "--namespace", "default", "--secret-name", "regcred", "--token-file", file}
	for _, c := range []struct {
		name, service, program, stdin string
		args                          []string
	}{
		{"exchange cloudsmith", "cloudsmith", built, "", slices.Concat([]string{"exchange"}, atCloudsmith("--token-file", file))},
		{"exchange cloudsmith, standard input", "cloudsmith", built, subject, slices.Concat([]string{"exchange"}, atCloudsmith("--token-file", "-"))},
		{"exchange gcp", "gcp", built, "", slices.Concat([]string{"exchange"}, atGoogle("--token-file", file))},
		{"pull-secret cloudsmith", "cloudsmith", built, "", slices.Concat([]string{"pull-secret"}, atCloudsmith(secret...))},
		{"pull-secret gcp", "gcp", built, "", slices.Concat([]string{"pull-secret"}, atGoogle(secret...), []string{"--registry", "europe-docker.pkg.dev"})},
		{"credential-provider cloudsmith", "cloudsmith", built, toCloudsmith, slices.Concat([]string{"credential-provider"}, atCloudsmith())},
		{"credential-provider gcp", "gcp", built, toGoogle, slices.Concat([]string{"credential-provider"}, atGoogle())},
		{"plugin cloudsmith", "cloudsmith", small, toCloudsmith, atCloudsmith()},
		{"plugin gcp", "gcp", small, toGoogle, atGoogle()},
	} {
		t.Run(c.name, func(t *testing.T) {
			stops := services[c.service]()
			r := l.in(t).inProcessList(c.program, c.stdin, c.args...)
			asks := len(stops)
			if c.args[0] != "pull-secret" {
				asks--
			}
			for _, inHand := range stops[:asks] {
				r.answers(arrivals, inHand)
			}
			got := ""
			if asks < len(stops) {
				got = r.firstByte()
				r.look("while it writes")
			}
			if got += r.end(); asks < len(stops) && !strings.Contains(got, issued) {
				t.Errorf("it did not write the credential: %.100q", got)
			}
		})
	}
}

// TestProcessListShowsSecrets: the search finds text in the arguments and the environment of a child.
func TestProcessListShowsSecrets(t *testing.T) {
	t.Parallel()
	argument, variable := rand.Text(), rand.Text()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `read argument; read variable; PLANTED=$variable sh -c "echo; read end" sh $argument; exit 0`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, argument+"\n"+variable+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // the child runs
		t.Fatal(err)
	}
	list := readProcessList(t, cmd.Process.Pid)
	for name, secret := range map[string]string{"cmdline": argument, "environ": variable} {
		if at := list.tells(secret); len(at) != 1 || !strings.HasSuffix(at[0], "/"+name) || strings.Contains(at[0], fmt.Sprint(cmd.Process.Pid)) {
			t.Errorf("found at %q, want the child's %s", at, name)
		}
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// arrival is a request that waits for its answer.
type arrival struct {
	path, sent string
	answer     chan<- struct{}
}

// held hands a request to the test before it is answered.
func held(arrivals chan<- arrival, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the program is gone
		}
		sent := r.Header.Get("Authorization") + "\n" + string(body)
		var written struct{ Data map[string][]byte }
		if json.Unmarshal(body, &written) == nil {
			sent += string(written.Data[".dockerconfigjson"])
		}
		answer := make(chan struct{})
		select {
		case arrivals <- arrival{r.URL.Path, sent, answer}:
		case <-r.Context().Done():
			return
		}
		<-answer
		then(w, r)
	}
}

// listed is a run that is looked at from outside.
type listed struct {
	*lab
	cmd    *exec.Cmd
	stdout *os.File
	stderr bytes.Buffer
}

func (l *lab) inProcessList(program, stdin string, args ...string) *listed {
	l.t.Helper()
	stdout, into, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = stdout.Close() })
	if room, err := unix.FcntlInt(into.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil || room > 1<<14 {
		l.t.Fatalf("a pipe of %d bytes: %v", room, err)
	}
	r := &listed{lab: l, cmd: exec.CommandContext(l.t.Context(), program, args...), stdout: stdout}
	r.cmd.Env, r.cmd.Dir, r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = l.env, l.dir, strings.NewReader(stdin), into, &r.stderr
	if err := r.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	if err := into.Close(); err != nil {
		l.t.Fatal(err)
	}
	return r
}

// answers looks while a request waits that carries what the run has in hand.
func (r *listed) answers(arrivals <-chan arrival, inHand string) {
	r.t.Helper()
	select {
	case a := <-arrivals:
		defer close(a.answer)
		if !strings.Contains(a.sent, inHand) {
			r.t.Errorf("%s does not carry what is looked for", a.path)
		}
		r.look("while " + a.path + " waits")
	case <-time.After(time.Minute):
		r.t.Fatalf("it sends no request: %s", &r.stderr)
	}
}

func (r *listed) look(when string) {
	r.t.Helper()
	list := readProcessList(r.t, r.cmd.Process.Pid)
	if len(list.tells(r.cmd.Args[1])) == 0 || len(list.tells("HTTPS_PROXY=")) == 0 {
		r.t.Errorf("%s: the process list does not have the program itself", when)
	}
	for i, secret := range r.secrets {
		if at := list.tells(secret); len(at) > 0 {
			r.t.Errorf("%s: secret %d stands in %q", when, i, at)
		}
	}
}

func (r *listed) firstByte() string {
	r.t.Helper()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r.stdout, first); err != nil {
		r.t.Errorf("it writes nothing: %v", err)
	}
	return string(first)
}

// end returns the rest of its output.
func (r *listed) end() string {
	r.t.Helper()
	rest, err := io.ReadAll(r.stdout)
	if err != nil {
		r.t.Error(err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("%v: %s", err, &r.stderr)
	}
	return string(rest)
}

// processList is what the kernel tells of a process and those below it.
type processList map[string][]byte

func readProcessList(t *testing.T, pid int) processList {
	t.Helper()
	list := processList{}
	for _, pid := range family(t, pid) {
		for _, name := range []string{"cmdline", "environ"} {
			place := fmt.Sprintf("/proc/%d/%s", pid, name)
			if data, err := os.ReadFile(place); err == nil { // one that ended meanwhile tells nothing
				list[place] = data
			}
		}
	}
	return list
}

// tells returns where a text stands.
func (l processList) tells(text string) (places []string) {
	for place, data := range l {
		if bytes.Contains(data, []byte(text)) {
			places = append(places, place)
		}
	}
	return places
}

// family are a process and all below it.
func family(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it ended
		}
		// The name in the parentheses may have some itself.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil || len(fields) < 2 {
			t.Fatalf("%s is %q: %v", stat, data, err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
