//go:build tools

// Package servers pins the commands that the tests build and run.
package servers

import (
	_ "github.com/Shopify/toxiproxy/v2/cmd/server"
	_ "github.com/fsouza/fake-gcs-server"
	_ "github.com/letsencrypt/pebble/v2/cmd/pebble"
	_ "github.com/versity/versitygw/cmd/versitygw"
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "sigs.k8s.io/kustomize/kustomize/v5"
)
