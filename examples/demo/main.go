// Demo shows the main job in under a minute: a private API server's documents
// become a public issuer, and tokens verify against it before and after its
// key is replaced. Everything runs on loopback, in a temporary directory.
//
// With -kubeconfig it reads your own cluster instead and changes nothing there.
package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"oidc-publisher/internal/fake"
)

func main() {
	binary := flag.String("binary", "bin/oidc-publisher", "the program to show")
	kubeconfig := flag.String("kubeconfig", "", "read this cluster instead of the built-in API server")
	flag.Parse()
	if err := run(*binary, *kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(binary, kubeconfig string) error {
	dir, err := os.MkdirTemp("", "oidc-publisher-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := demo{binary: binary, dir: dir, public: filepath.Join(dir, "public")}
	if kubeconfig != "" {
		return d.showCluster(kubeconfig)
	}
	if !trustsByVariable(runtime.GOOS) {
		return fmt.Errorf("on %s, programs trust only the certificate authorities of the system, and not the one of this demo: run it on Linux, such as in a container, or with -kubeconfig", runtime.GOOS)
	}
	return d.show()
}

// trustsByVariable reports whether Go programs read SSL_CERT_FILE.
func trustsByVariable(system string) bool { return system != "darwin" && system != "windows" }

type demo struct {
	binary, dir, public string
	// env is added to the environment of the program.
	env []string
}

func (d *demo) show() error {
	website, err := d.serve()
	if err != nil {
		return err
	}
	defer website.Close()
	issuer := website.URL
	api, kubeconfig, err := d.startAPIServer(issuer)
	if err != nil {
		return err
	}
	defer api.Stop()

	printf("A private API server runs at %s. Its issuer is\n%s, where nothing is published yet.", api.URL(), issuer)
	if err := d.step("Publish: both documents, from the API server to a directory that a file server serves.",
		"publish", "--kubeconfig", kubeconfig, "--to", d.public); err != nil {
		return err
	}
	oldToken, err := d.saveToken(api)
	if err != nil {
		return err
	}
	if err := d.step("Verify, as a relying party would, with a token minted just now.",
		"verify", issuer, "--kubeconfig", kubeconfig, "--mint", "default/demo", "--audience", "demo"); err != nil {
		return err
	}
	newKey, err := api.Replace("RS256")
	if err != nil {
		return err
	}
	printf("The API server's key is replaced. From now on it lists and signs with only\n%s.", newKey)
	if err := d.step("Publish again: the new key is added, the old one stays public for its grace period.",
		"publish", "--kubeconfig", kubeconfig, "--to", d.public); err != nil {
		return err
	}
	if err := d.step("A token from before the rotation still verifies.",
		"verify", issuer, "--token-file", oldToken, "--audience", "demo"); err != nil {
		return err
	}
	if err := d.step("So does a new one.",
		"verify", issuer, "--kubeconfig", kubeconfig, "--mint", "default/demo", "--audience", "demo"); err != nil {
		return err
	}
	printf(`For a cluster of your own:

  make demo KUBECONFIG=~/.kube/config                    read it, and change nothing
  bin/oidc-publisher publish --to gs://BUCKET --dry-run  what would be written
  bin/oidc-publisher publish --to gs://BUCKET            write it
  bin/oidc-publisher verify ISSUER                       read it as relying parties do`)
	return nil
}

// showCluster reads a real cluster, and writes only to the temporary directory.
func (d *demo) showCluster(kubeconfig string) error {
	if err := d.step("What would be published for this cluster.",
		"publish", "--kubeconfig", kubeconfig, "--to", d.public, "--no-verify"); err != nil {
		return err
	}
	issuer, err := d.issuer(kubeconfig)
	if err != nil {
		return err
	}
	err = d.step("What relying parties see at its issuer today.", "verify", issuer, "--kubeconfig", kubeconfig)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if exit != nil {
		printf("So relying parties can't use this issuer yet. Publish it:\n\n  bin/oidc-publisher publish --kubeconfig %s --to gs://BUCKET --dry-run\n\nIf the issuer is not a public URL, the README shows how to give the cluster one.", kubeconfig)
	}
	return nil
}

// startAPIServer gives the demo's user the rights that publish and verify need.
func (d *demo) startAPIServer(issuer string) (api *fake.APIServer, kubeconfig string, err error) {
	api, err = fake.NewAPIServer(fake.APIServerOptions{Issuer: issuer})
	if err != nil {
		return nil, "", err
	}
	if err := api.Start(); err != nil {
		return nil, "", err
	}
	api.AddServiceAccount("default", "demo")
	api.AddServiceAccount("default", "default")
	api.Grant("platform-engineer", fake.RightDiscovery, fake.RightMint, fake.RightNamespaces)
	kubeconfig = filepath.Join(d.dir, "kubeconfig")
	return api, kubeconfig, api.WriteKubeconfig(kubeconfig, "platform-engineer")
}

// serve starts the web server that makes the directory public.
func (d *demo) serve() (*httptest.Server, error) {
	if err := os.Mkdir(d.public, 0o755); err != nil {
		return nil, err
	}
	files := http.FileServer(http.Dir(d.public))
	website := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=60")
		files.ServeHTTP(w, r)
	}))
	ca := filepath.Join(d.dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: website.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o644); err != nil {
		website.Close()
		return nil, err
	}
	d.env = append(d.env, "SSL_CERT_FILE="+ca)
	return website, nil
}

func (d *demo) saveToken(api *fake.APIServer) (file string, err error) {
	token, err := api.MintToken("default", "demo", "demo", time.Hour)
	if err != nil {
		return "", err
	}
	file = filepath.Join(d.dir, "old-token")
	return file, os.WriteFile(file, []byte(token), 0o600)
}

// step prints a command, runs it, and prints its output without the checks that
// passed.
func (d *demo) step(what string, args ...string) error {
	printf("%s\n\n$ oidc-publisher %s", what, d.short(strings.Join(args, " ")))
	cmd := d.command(args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	passed := 0
	for line := range strings.Lines(d.short(string(out))) {
		if strings.HasPrefix(line, "PASS   ") && !strings.HasPrefix(line, "PASS   the issuer is fit") {
			passed++
			continue
		}
		fmt.Print(line)
	}
	if passed > 0 {
		fmt.Printf("       (%d checks that passed are not shown)\n", passed)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

func (d *demo) short(text string) string { return strings.ReplaceAll(text, d.dir, "$DEMO") }

// issuer returns the cluster's own issuer.
func (d *demo) issuer(kubeconfig string) (string, error) {
	out, err := d.command("publish", "--kubeconfig", kubeconfig, "--to", d.public, "--no-verify", "--output", "json").Output()
	if err != nil {
		return "", err
	}
	var report struct {
		Issuer string `json:"issuer"`
	}
	return report.Issuer, json.Unmarshal(out, &report)
}

func (d *demo) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), d.binary, args...)
	cmd.Env = append(os.Environ(), d.env...)
	return cmd
}

func printf(format string, args ...any) {
	fmt.Printf("\n"+format+"\n", args...)
}
