package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/client-go/rest"
)

// maxUID bounds the cluster's UID in bytes; a real one has 36.
const maxUID = 253

// cluster returns the names that identify this cluster: the UID of its
// kube-system namespace where RBAC allows to read it, and its CA.
func (s *Source) cluster(ctx context.Context) ([]string, error) {
	var names []string
	uid, err := s.knownUID(ctx)
	if err != nil {
		return nil, err
	}
	if uid != "" {
		names = append(names, "uid:"+uid)
	}
	ca, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	if ca != "" {
		names = append(names, "ca:"+ca)
	}
	return names, nil
}

// clusterUID is the UID of the kube-system namespace, "" if it can't be read.
type clusterUID struct {
	value string
	read  time.Time
}

// knownUID reads the UID once. While RBAC does not allow it, it tries again every
// mintInterval.
func (s *Source) knownUID(ctx context.Context) (string, error) {
	s.mu.Lock()
	known := s.uid
	s.mu.Unlock()
	if known.value != "" || !known.read.IsZero() && s.now().Sub(known.read) < mintInterval {
		return known.value, nil
	}
	uid, err := s.readUID(ctx)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uid = clusterUID{uid, s.now()}
	return uid, nil
}

// readUID returns "" where RBAC does not allow to read the namespace. A server
// that fails is an error: the cluster must not seem to change its identity.
func (s *Source) readUID(ctx context.Context) (string, error) {
	r := request{method: http.MethodGet, path: "api/v1/namespaces/kube-system"}
	a, err := s.home.do(ctx, r)
	if err != nil {
		return "", err
	}
	if a.status == http.StatusTooManyRequests || a.status >= 500 {
		return "", s.home.refused(r, a)
	}
	var namespace struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if a.status != http.StatusOK {
		return "", nil
	}
	if err := json.Unmarshal(a.body, &namespace); err != nil {
		return "", s.home.unusable(r, a, errors.New("the answer is not the expected JSON"))
	}
	uid := namespace.Metadata.UID
	if uid == "" || len(uid) > maxUID || strings.ContainsFunc(uid, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", s.home.unusable(r, a, errors.New("the namespace has no usable UID"))
	}
	return uid, nil
}

// clusterCA returns the SHA-256 of the certificates that the kubeconfig trusts, in
// any order, "" where it trusts the system's.
func (s *Source) clusterCA() (string, error) {
	config := rest.CopyConfig(s.config)
	if err := rest.LoadTLSFiles(config); err != nil {
		return "", fmt.Errorf("certificate authority of the kubeconfig: %w", err)
	}
	var certificates [][]byte
	for block, more := pem.Decode(config.CAData); block != nil; block, more = pem.Decode(more) {
		if _, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			certificates = append(certificates, block.Bytes)
		}
	}
	if len(certificates) == 0 {
		return "", nil
	}
	slices.SortFunc(certificates, bytes.Compare)
	certificates = slices.CompactFunc(certificates, bytes.Equal)
	sum := sha256.Sum256(bytes.Join(certificates, nil))
	return hex.EncodeToString(sum[:]), nil
}
