// Package pullsecret writes the credentials of registries to image pull secrets
// (kubernetes.io/dockerconfigjson) in any number of namespaces.
//
// It never reads the content of a secret. Its type, labels and field managers
// show who owns it; annotations report the age of the credential.
package pullsecret
