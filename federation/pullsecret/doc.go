// Package pullsecret keeps the credentials of registries in image pull secrets
// (kubernetes.io/dockerconfigjson), in as many namespaces as need them.
//
// It never reads what is in a secret. Type and metadata tell whose a secret is
// and how old, and the record of field managers tells whether it still holds
// what was written.
package pullsecret
