package credentialprovider

import "fmt"

// Choice is a setting that an annotation of the service account may make, unless
// the node's administrator pins it.
type Choice struct {
	// Flag is the flag that pins it, without the dashes.
	Flag string
	// Annotation is the annotation that sets it.
	Annotation string
	// Pinned is the administrator's value; an annotation must not differ.
	Pinned string
	// Default is the value without an annotation.
	Default string
}

// of returns the value for a service account, "" for none.
func (c Choice) of(annotations map[string]string) (string, error) {
	chosen := annotations[c.Annotation]
	switch {
	case c.Pinned == "" && chosen == "":
		return c.Default, nil
	case c.Pinned == "":
		return chosen, nil
	case chosen == "" || chosen == c.Pinned:
		return c.Pinned, nil
	default:
		return "", fmt.Errorf("the service account's annotation %s is %.200q, but this node allows only %q (--%s)", c.Annotation, chosen, c.Pinned, c.Flag)
	}
}

// need is of for a required value.
func (c Choice) need(annotations map[string]string) (string, error) {
	value, err := c.of(annotations)
	if err == nil && value == "" {
		err = fmt.Errorf("the service account has no annotation %s, and this node has no default for it (--%s, --default-%[2]s); kubelet sends the annotation only if the CredentialProviderConfig lists it", c.Annotation, c.Flag)
	}
	return value, err
}
