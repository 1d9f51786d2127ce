package dir

import (
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	"oidc-publisher/backends/internal/target"
)

// Scheme describes the targets in directories.
var Scheme = target.Scheme{
	Name:      "file",
	Form:      "file:///PATH or a path",
	Aliases:   []string{"dir"},
	Local:     true,
	Parse:     parse,
	ParsePath: parsePath,
}

// Config is the place to publish to.
type Config struct {
	// Path is the directory, absolute or relative to the working directory.
	Path string
}

func parse(u *url.URL) (target.Place, error) {
	if _, err := target.Parameters(u); err != nil {
		return nil, err
	}
	if u.Host != "" || u.Path == "" {
		return nil, errors.New("a file URL has three slashes and an absolute path")
	}
	path := u.Path
	if filepath.VolumeName(path[1:]) != "" { // file:///C:/PATH on Windows
		path = path[1:]
	}
	return parsePath(filepath.FromSlash(path))
}

func parsePath(path string) (target.Place, error) {
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("a path has no NUL character")
	}
	return Config{Path: filepath.Clean(path)}, nil
}

// String returns a URL for an absolute path, and a relative path unchanged.
func (c Config) String() string {
	switch path := filepath.ToSlash(c.Path); {
	case filepath.IsAbs(c.Path):
		return "file:///" + strings.TrimPrefix(target.EscapePath(path), "/")
	case path[0] == '.':
		return path
	default:
		return "./" + path
	}
}

// Nearest implements target.Place. Every issuer may be read from a directory.
func (c Config) Nearest(target.Place) target.Place { return c }
