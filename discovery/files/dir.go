// Package files reads the discovery documents from files: a folder with the two
// documents, or the public keys of a cluster that need not exist yet.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

// Source reads files at each Fetch.
type Source func() (discovery.Snapshot, error)

// Fetch reads and validates the files. A Snapshot of files names no cluster and
// has no canary.
func (s Source) Fetch(ctx context.Context) (discovery.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return discovery.Snapshot{}, err
	}
	return s()
}

// Dir is a folder with the two documents, as these commands write them:
//
//	kubectl get --raw /.well-known/openid-configuration > DIR/openid-configuration
//	kubectl get --raw /openid/v1/jwks > DIR/jwks
//
// or as this tool publishes them.
func Dir(path string) Source {
	return func() (discovery.Snapshot, error) { return readDir(path) }
}

func readDir(path string) (discovery.Snapshot, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return discovery.Snapshot{}, fmt.Errorf("folder with the discovery documents: %w", err)
	case !info.IsDir():
		return discovery.Snapshot{}, fmt.Errorf("%s is a file: name the folder that holds openid-configuration and jwks", path)
	}
	var s discovery.Snapshot
	var keysFile string
	var documentErr, keysErr error
	// The API server's own paths, and flat ones.
	s.Document, _, documentErr = parseFirst(path, discovery.ParseDocument, discovery.ConfigurationPath, "openid-configuration", "openid-configuration.json")
	s.Keys, keysFile, keysErr = parseFirst(path, discovery.ParseKeySet, discovery.JWKSPath, "jwks", "jwks.json", "keys.json")
	if err := errors.Join(documentErr, keysErr); err != nil {
		return discovery.Snapshot{}, err
	}
	for _, fault := range s.Keys.LeftOut() {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s: %v", keysFile, fault))
	}
	return s, nil
}

// parseFirst parses the file that exists. It returns an error if there are two,
// since one of them may be outdated.
func parseFirst[T any](dir string, parse func([]byte) (T, error), names ...string) (value T, file string, err error) {
	var found []string
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return value, "", err
		}
	}
	switch len(found) {
	case 0:
		return value, "", fmt.Errorf("%s has none of %s: create it with: kubectl get --raw /%s > %s",
			dir, strings.Join(names, ", "), names[0], filepath.Join(dir, names[1]))
	case 1:
		data, err := readFile(found[0])
		if err != nil {
			return value, "", err
		}
		if value, err = parse(data); err != nil {
			err = fmt.Errorf("%s: %w", found[0], err)
		}
		return value, found[0], err
	default:
		return value, "", fmt.Errorf("%s are the same document twice: keep the current one", strings.Join(found, " and "))
	}
}

// readFile reads a regular file of at most discovery.MaxSize bytes.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return httpx.ReadFile(path, discovery.MaxSize)
}
