package backends

import (
	"context"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"oidc-publisher/backends/backendtest"
	"oidc-publisher/backends/internal/target"
	"oidc-publisher/publish"
)

// shelf is a made-up backend: shelves in the memory of the process, of which
// shelf NAME is served at https://NAME.shelf.example.
type shelf struct{ name string }

func (s shelf) String() string { return "shelf://" + s.name }

func (s shelf) Open(context.Context) (publish.Backend, error) {
	return new(backendtest.Memory).Open(), nil
}

func (s shelf) Nearest(want target.Place) target.Place { return want }

var shelfScheme = target.Scheme{
	Name:    "shelf",
	Form:    "shelf://NAME",
	Aliases: []string{"rack"},
	Parse: func(u *url.URL) (target.Place, error) {
		if u.Host == "" {
			return nil, errors.New("no shelf")
		}
		return shelf{u.Host}, nil
	},
	OfIssuer: func(host, path string) (target.Place, bool) {
		name, ok := strings.CutSuffix(host, ".shelf.example")
		return shelf{name}, ok && path == ""
	},
}

// TestNewScheme adds a backend by one line in a table. Its targets then work
// wherever other targets do.
func TestNewScheme(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1") // no credentials, and no request
	with := append(slices.Clone(schemes), shelfScheme)

	opened := open(t, with, "shelf://top")
	if opened.Name != "shelf://top" || opened.Local {
		t.Errorf("opened as %+v", opened)
	}
	if err := opened.Backend.Put(t.Context(), publish.Object{Name: "a", Body: []byte("x")}, publish.IfAbsent()); err != nil {
		t.Error(err)
	}
	if err := opened.CheckIssuer("https://top.shelf.example"); err != nil {
		t.Errorf("its own issuer: %v", err)
	}
	if err := opened.CheckIssuer("https://issuer.example.com"); err != nil {
		t.Errorf("an issuer elsewhere: %v", err)
	}
	says(t, opened.CheckIssuer("https://storage.googleapis.com/bucket"), "use --to 'gs://bucket'")
	says(t, open(t, with, "gs://bucket").CheckIssuer("https://top.shelf.example"), "use --to 'shelf://top'")

	if derived, ok := with.forIssuer("https://top.shelf.example"); !ok || derived.String() != "shelf://top" {
		t.Errorf("of the issuer: %v, %v", derived.place, ok)
	}
	for raw, want := range map[string]string{
		"shelf://":                  "target shelf://: no shelf: use shelf://NAME",
		"shelf:top":                 "two slashes are missing: use shelf://",
		"shelf://key@top":           "credentials don't belong in a target",
		"rack://top":                "did you mean shelf://NAME?",
		"ftp://top":                 ", shelf://NAME",
		"https://top.shelf.example": "use shelf://top",
	} {
		_, err := with.parse(raw)
		says(t, err, want)
	}
}

func open(t *testing.T, with table, raw string) publish.Target {
	t.Helper()
	parsed, err := with.parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := parsed.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Backend.Close() })
	return opened
}

func says(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one that says %q", err, want)
	}
}

// TestOnlyTheTableNamesBackends: a new backend needs no other change.
func TestOnlyTheTableNamesBackends(t *testing.T) {
	naming := map[string][]string{}
	for _, file := range productFiles(t, "..") {
		for _, imported := range importsOf(t, filepath.Join("..", file)) {
			if name, ok := strings.CutPrefix(imported, "oidc-publisher/backends/"); ok && !strings.HasPrefix(name, "internal/") && !strings.HasPrefix(file, "backends/"+name+"/") {
				naming[name] = append(naming[name], file)
			}
		}
	}
	if len(naming) != len(schemes) {
		t.Errorf("%d backends are imported and %d are in the table: %v", len(naming), len(schemes), naming)
	}
	for name, files := range naming {
		if !slices.Equal(files, []string{"backends/table.go"}) {
			t.Errorf("backends/%s is imported by %q, want backends/table.go alone", name, files)
		}
	}
}

// productFiles returns the Go files of both programs, relative to root.
func productFiles(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root || slices.Contains([]string{"testdata", "examples", "node_modules"}, entry.Name())):
			return filepath.SkipDir
		case !entry.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			name, err := filepath.Rel(root, path)
			files = append(files, filepath.ToSlash(name))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func importsOf(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, spec := range file.Imports {
		imports = append(imports, strings.Trim(spec.Path.Value, `"`))
	}
	return imports
}
