package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"k8s.io/client-go/rest"
)

// maxUID bounds the cluster's UID in bytes; a real one has 36.
const maxUID = 253

// cluster returns the names that identify this cluster: the UID of its
// kube-system namespace, and its CA. The UID is read once; while RBAC does not
// allow it, every mintInterval.
func (s *Source) cluster(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	uid, read := s.uid, s.uidRead
	s.mu.Unlock()
	if uid == "" && s.now().Sub(read) >= mintInterval {
		var err error
		if uid, err = s.readUID(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.uid, s.uidRead = uid, s.now()
		s.mu.Unlock()
	}
	var names []string
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

// readUID returns "" where RBAC does not allow to read the namespace. A server
// that fails is an error: the cluster must not seem to change its identity.
func (s *Source) readUID(ctx context.Context) (string, error) {
	r := request{path: "api/v1/namespaces/kube-system"}
	a, err := s.home.do(ctx, r)
	if err != nil {
		return "", err
	}
	switch {
	case a.status == http.StatusTooManyRequests || a.status >= 500:
		return "", s.home.refused(r, a)
	case a.status != http.StatusOK:
		return "", nil
	}
	var namespace struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if err := s.home.decode(r, a, &namespace); err != nil {
		return "", err
	}
	uid := namespace.Metadata.UID
	if uid == "" || len(uid) > maxUID || strings.ContainsFunc(uid, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", s.home.unusable(r, a, errors.New("the namespace has no usable UID"))
	}
	return uid, nil
}

// clusterCA returns the SHA-256 of the certificates that the kubeconfig trusts,
// in any order, "" if it trusts those of the system.
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
