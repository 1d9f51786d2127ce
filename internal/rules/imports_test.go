// Package rules tests what CONTRIBUTING.md says about the source tree itself:
// which package may import what, and what no file may contain.
package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const module = "oidc-publisher"

// rule applies to a package, or with "/..." to a package and those below it; the
// longest name that matches a package decides. Every package must have one.
type rule struct {
	name string
	// mayImport lists the packages of ours that it imports ("x/..." as above).
	mayImport []string
	// mustNotLink lists what must not be linked into it, by prefix: packages are
	// split by what they pull in.
	mustNotLink []string
}

var (
	clouds  = []string{"cloud.google.com/", "google.golang.org/", "github.com/aws/"}
	cluster = []string{"k8s.io/"}
	// The clientset weighs 20 MB and 14 MiB of memory, and comes with
	// client-go's leaderelection too: nothing of the product links it.
	clientset = []string{"k8s.io/client-go/kubernetes"}
	cli       = []string{"github.com/urfave/cli"}
	// What only tests and examples may import.
	testOnly = []string{"internal/fake", "internal/testserver", "federation/pullsecret/lease/leasetest", "internal/logtest", "backends/backendtest"}
)

var rules = []rule{
	{name: "cmd/oidc-publisher", mayImport: []string{"backends", "internal/acme", "internal/serve", "internal/tunnel", "publish/...", "discovery/...", "federation/...", "internal/cli", "internal/httpx", "internal/service/..."}, mustNotLink: clientset},

	{name: "backends", mayImport: []string{"backends/...", "publish", "discovery"}, mustNotLink: slices.Concat(cluster, cli)},
	{name: "backends/...", mayImport: []string{"backends/internal/...", "publish", "discovery", "internal/httpx"}, mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "backends/gcs", mayImport: []string{"backends/internal/...", "publish", "discovery"}, mustNotLink: slices.Concat(cluster, cli, []string{"github.com/aws/"})},
	{name: "backends/s3", mayImport: []string{"backends/internal/...", "publish", "discovery"}, mustNotLink: slices.Concat(cluster, cli, []string{"cloud.google.com/", "google.golang.org/"})},

	// Prometheus brings google.golang.org/protobuf along.
	{name: "internal/serve", mayImport: []string{"internal/acme", "internal/tunnel", "publish/...", "discovery", "discovery/kube", "discovery/verify", "internal/httpx", "internal/service/..."}, mustNotLink: slices.Concat(clientset, cli, []string{"cloud.google.com/", "github.com/aws/"})},
	{name: "internal/acme", mayImport: []string{"internal/httpx", "internal/service/..."}, mustNotLink: slices.Concat(cluster, cli, []string{"cloud.google.com/", "github.com/aws/"})},
	{name: "internal/tunnel", mayImport: []string{"internal/service/..."}, mustNotLink: slices.Concat(cluster, cli, []string{"cloud.google.com/", "github.com/aws/"})},
	{name: "internal/cli", mayImport: []string{"internal/httpx"}, mustNotLink: slices.Concat(clouds, cluster)},

	{name: "publish", mayImport: []string{"discovery", "discovery/verify", "internal/httpx", "internal/service/retry"}, mustNotLink: slices.Concat(clouds, cluster, cli)},

	{name: "publish/watch", mayImport: []string{"publish", "discovery", "discovery/verify", "internal/service/..."}, mustNotLink: slices.Concat(clientset, cli, []string{"cloud.google.com/", "github.com/aws/"})},

	{name: "discovery", mustNotLink: slices.Concat(clouds, cluster, cli)}, // and see the test
	{name: "discovery/...", mayImport: []string{"discovery", "internal/httpx"}, mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "discovery/verify", mayImport: []string{"discovery", "internal/httpx", "internal/service/retry"}, mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "discovery/kube", mayImport: []string{"discovery", "internal/httpx", "internal/kubeerr"}, mustNotLink: slices.Concat(clouds, clientset, cli)},

	{name: "federation/exchange", mayImport: []string{"discovery", "internal/httpx", "internal/service/retry"}, mustNotLink: slices.Concat(clouds, cluster, cli, []string{"golang.org/x/oauth2"})},
	{name: "federation/explain", mayImport: []string{"discovery", "discovery/verify", "federation/exchange", "internal/httpx"}, mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "federation/pullsecret", mayImport: []string{"discovery", "federation/exchange", "federation/pullsecret/lease", "internal/service/...", "internal/kubeerr"}, mustNotLink: slices.Concat(cli, []string{"cloud.google.com/", "github.com/aws/"})},
	{name: "federation/pullsecret/lease", mayImport: []string{"internal/kubeerr"}, mustNotLink: slices.Concat(clouds, clientset, cli)},
	{name: "federation/pullsecret/lease/leasetest", mustNotLink: slices.Concat(clouds, clientset, cli)},
	{name: "federation/credentialprovider", mayImport: []string{"discovery", "discovery/verify", "federation/exchange", "federation/explain", "internal/httpx"}, mustNotLink: slices.Concat(clouds, clientset, cli)},
	{name: "federation/credentialprovider/nodeconfig", mayImport: []string{"federation/credentialprovider", "internal/httpx"}, mustNotLink: slices.Concat(clouds, clientset, cli)},
	{name: "cmd/oidc-publisher-credential-provider", mayImport: []string{"discovery", "federation/credentialprovider", "federation/exchange", "federation/explain", "internal/httpx"}, mustNotLink: slices.Concat(clouds, clientset, cli)},

	// Prometheus brings google.golang.org/protobuf along.
	{name: "internal/service", mustNotLink: slices.Concat(cluster, cli, []string{"cloud.google.com/", "github.com/aws/"})},
	{name: "internal/service/retry", mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "internal/httpx", mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "internal/kubeerr", mayImport: []string{"discovery", "internal/httpx"}, mustNotLink: slices.Concat(clouds, clientset, cli, []string{"k8s.io/client-go"})},
	{name: "internal/logtest", mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "internal/fake", mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "internal/testserver", mayImport: []string{"internal/fake"}, mustNotLink: slices.Concat(cluster, cli)}, // makes buckets with the SDKs
	{name: "internal/rules"},
	{name: "internal/e2e"},
	{name: "examples/demo", mayImport: []string{"internal/fake"}, mustNotLink: slices.Concat(clouds, cluster, cli)},
	{name: "examples/...", mayImport: []string{"..."}},
}

// owners names the packages whose code imports a heavy or a global thing.
var owners = map[string][]string{
	"cloud.google.com/":     {"backends/gcs"},
	"google.golang.org/":    {"backends/gcs"},
	"github.com/aws/":       {"backends/s3"},
	"github.com/urfave/cli": {"internal/cli"},
}

// banned is what the product must not import, with the reason. A name stands
// for the package alone, and one with a slash at its end for those below it too.
var banned = map[string]string{
	"testing/":               "it is for tests",
	"log":                    "use a log/slog logger that was passed in",
	"github.com/pkg/errors/": "use errors and fmt.Errorf",
}

// Names that say nothing about what is in a package.
var emptyNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "lib", "base"}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath, Name, Dir              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
	Error                              *struct{ Err string }
	DepsErrors                         []struct{ Err string }
}

// judge returns one line for each fault of the import graph.
func judge(pkgs []pkg) []string {
	var faults []string
	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		fault := func(format string, args ...any) {
			faults = append(faults, name+": "+fmt.Sprintf(format, args...))
		}
		if slices.Contains(emptyNames, p.Name) || slices.Contains(emptyNames, path.Base(name)) {
			fault("the name says nothing about what is in it")
		}
		r, ok := ruleOf(name)
		if !ok {
			fault("no rule in internal/rules says what it may import")
			continue
		}
		for _, imported := range ours(p.Imports) {
			if !slices.ContainsFunc(r.mayImport, within(imported)) {
				fault("must not import %s", imported)
			}
			if slices.Contains(testOnly, imported) && isProduct(name) {
				fault("imports %s, which is for tests", imported)
			}
		}
		for _, imported := range p.Imports {
			for heavy, packages := range owners {
				if hasPath(imported, heavy) && !slices.Contains(packages, name) && name != "internal/testserver" {
					fault("must not import %s: that is for %s", imported, strings.Join(packages, ", "))
				}
			}
			for bad, reason := range banned {
				if isProduct(name) && (imported == bad || strings.HasSuffix(bad, "/") && hasPath(imported, bad)) {
					fault("must not import %s: %s", imported, reason)
				}
			}
		}
		for _, heavy := range r.mustNotLink {
			// One is enough to know: the others come along with it.
			if i := slices.IndexFunc(p.Deps, func(dep string) bool { return hasPath(dep, heavy) }); i >= 0 {
				fault("must not link %s", p.Deps[i])
			}
		}
		if name == "discovery" {
			for _, dep := range p.Deps {
				if !standard(dep) && !hasPath(dep, "github.com/go-jose/go-jose/v4") {
					fault("links %s; it is standard library and go-jose only", dep)
				}
			}
		}
	}
	return faults
}

// isProduct: what tests and examples are made of is not bound by the rules of
// what is shipped.
func isProduct(name string) bool {
	return !slices.Contains(testOnly, name) && !strings.HasPrefix(name, "examples/")
}

func ruleOf(name string) (best rule, found bool) {
	for _, r := range rules {
		if r.name == name {
			return r, true
		}
		if within(name)(r.name) && len(r.name) > len(best.name) {
			best, found = r, true
		}
	}
	return best, found
}

// within reports whether the package is the one, or one of those, that a
// pattern names.
func within(name string) func(pattern string) bool {
	return func(pattern string) bool {
		if parent, ok := strings.CutSuffix(pattern, "..."); ok {
			return strings.HasPrefix(name+"/", parent)
		}
		return name == pattern
	}
}

func hasPath(name, prefix string) bool {
	return strings.HasPrefix(name+"/", strings.TrimSuffix(prefix, "/")+"/")
}

// standard: the first element of every other import path is a domain or ours.
func standard(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return first != module && !strings.Contains(first, ".")
}

func ours(imports []string) []string {
	var names []string
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module+"/"); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestLayers(t *testing.T) {
	for _, system := range []string{"linux", "darwin", "windows"} {
		t.Run(system, func(t *testing.T) {
			pkgs := list(t, system)
			if len(pkgs) < 5 {
				t.Fatalf("go list found %d packages: this test sees nothing", len(pkgs))
			}
			for _, fault := range judge(pkgs) {
				t.Error(fault)
			}
		})
	}
}

func TestJudgeFindsFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		pkg  pkg
		want string // "" for none
	}{
		{"downwards", pkg{ImportPath: "backends/s3", Imports: []string{module + "/publish"}, Deps: []string{"github.com/aws/aws-sdk-go-v2/service/s3"}}, ""},
		{"upwards", pkg{ImportPath: "publish", Imports: []string{module + "/backends/s3"}}, "publish: must not import backends/s3"},
		{"sideways", pkg{ImportPath: "backends/s3", Imports: []string{module + "/backends/dir"}}, "backends/s3: must not import backends/dir"},
		{"backend to source", pkg{ImportPath: "backends/dir", Imports: []string{module + "/discovery/kube"}}, "backends/dir: must not import discovery/kube"},
		{"source to source", pkg{ImportPath: "discovery/files", Imports: []string{module + "/discovery/kube"}}, "discovery/files: must not import discovery/kube"},
		{"discovery to a package below it", pkg{ImportPath: "discovery", Imports: []string{module + "/discovery/verify"}}, "discovery: must not import discovery/verify"},
		{"publish to federation", pkg{ImportPath: "publish", Imports: []string{module + "/federation/exchange"}}, "publish: must not import federation/exchange"},
		{"around the table", pkg{ImportPath: "cmd/oidc-publisher", Imports: []string{module + "/backends/gcs"}}, "cmd/oidc-publisher: must not import backends/gcs"},
		{"test code in the product", pkg{ImportPath: "backends", Imports: []string{module + "/backends/backendtest"}}, "backends: imports backends/backendtest, which is for tests"},
		{"test code in a test", pkg{ImportPath: "backends/dir", XTestImports: []string{module + "/backends/backendtest"}}, ""},
		{"testing in the product", pkg{ImportPath: "publish", Imports: []string{"testing"}}, "publish: must not import testing: it is for tests"},
		{"testing's packages in the product", pkg{ImportPath: "publish", Imports: []string{"testing/fstest"}}, "publish: must not import testing/fstest: it is for tests"},
		{"testing in test code", pkg{ImportPath: "backends/backendtest", Imports: []string{"testing", "log"}}, ""},
		{"testing in a test", pkg{ImportPath: "publish", TestImports: []string{"testing"}, XTestImports: []string{"testing"}}, ""},
		{"the global logger", pkg{ImportPath: "publish", Imports: []string{"log"}}, "publish: must not import log: use a log/slog logger that was passed in"},
		{"a logger", pkg{ImportPath: "publish", Imports: []string{"log/slog", "testingly"}}, ""},
		{"errors of others", pkg{ImportPath: "publish", Imports: []string{"github.com/pkg/errors"}}, "publish: must not import github.com/pkg/errors: use errors and fmt.Errorf"},
		{"GCS in publish", pkg{ImportPath: "publish", Deps: []string{"cloud.google.com/go/storage"}}, "publish: must not link cloud.google.com/go/storage"},
		{"GCS in s3", pkg{ImportPath: "backends/s3", Deps: []string{"cloud.google.com/go/auth"}}, "backends/s3: must not link cloud.google.com/go/auth"},
		{"GCS in cmd", pkg{ImportPath: "cmd/oidc-publisher", Imports: []string{"cloud.google.com/go/storage"}}, "cmd/oidc-publisher: must not import cloud.google.com/go/storage: that is for backends/gcs"},
		{"GCS in gcs", pkg{ImportPath: "backends/gcs", Deps: []string{"cloud.google.com/go/storage"}}, ""},
		{"rest", pkg{ImportPath: "discovery/kube", Deps: []string{"k8s.io/client-go/rest", "k8s.io/client-go/kubernetesque"}}, ""},
		{"a clientset", pkg{ImportPath: "discovery/kube", Deps: []string{"k8s.io/client-go/kubernetes/scheme"}}, "discovery/kube: must not link k8s.io/client-go/kubernetes/scheme"},
		{"pure", pkg{ImportPath: "discovery", Deps: []string{"crypto/rsa", "vendor/golang.org/x/net/idna", "github.com/go-jose/go-jose/v4/json"}}, ""},
		{"not pure", pkg{ImportPath: "discovery", Deps: []string{"golang.org/x/net/idna"}}, "discovery: links golang.org/x/net/idna; it is standard library and go-jose only"},
		{"an empty name", pkg{ImportPath: "internal/httpx", Name: "util"}, "internal/httpx: the name says nothing about what is in it"},
		{"an empty folder name", pkg{ImportPath: "backends/common"}, "backends/common: the name says nothing about what is in it"},
		{"without a rule", pkg{ImportPath: "internal/stuff"}, "internal/stuff: no rule in internal/rules says what it may import"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.pkg.ImportPath = module + "/" + c.pkg.ImportPath
			faults := judge([]pkg{c.pkg})
			if c.want == "" && len(faults) > 0 || c.want != "" && !slices.Contains(faults, c.want) {
				t.Errorf("got %q, want %q", faults, c.want)
			}
		})
	}
}

// An init function runs in every program that links the package, wanted or not.
func TestNoInit(t *testing.T) {
	for _, p := range list(t, runtime.GOOS) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			for _, position := range inits(t, path.Join(p.Dir, name), nil) {
				t.Errorf("%s: an init function", position)
			}
		}
	}
	if len(inits(t, "made-up.go", "package p\nfunc init() {}\nfunc (t) init() {}")) != 1 {
		t.Error("the check is blind")
	}
}

func inits(t *testing.T, name string, source any) []token.Position {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var found []token.Position
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			found = append(found, files.Position(f.Pos()))
		}
	}
	return found
}

// list returns the packages of the module as built for an operating system.
func list(t *testing.T, system string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-tags", "disable_grpc_modules", "-json", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS="+system)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return pkgs
		case err != nil:
			t.Fatal(err)
		case p.Error != nil:
			t.Errorf("%s: %s", p.ImportPath, p.Error.Err)
		}
		pkgs = append(pkgs, p)
	}
}
