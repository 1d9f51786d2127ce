package credentialprovider

import "fmt"

// Choice is a setting that the author of a service account may make, by an
// annotation, where the node's administrator lets them.
type Choice struct {
	// Flag is how the administrator pins it, without the dashes.
	Flag string
	// Annotation is how the service account's author chooses it.
	Annotation string
	// Pinned is the administrator's value; an annotation must not differ.
	Pinned string
	// Default is the value without an annotation.
	Default string
}

// of returns the value for a service account, "" if nobody gave one.
func (c Choice) of(annotations map[string]string) (string, error) {
	asked := annotations[c.Annotation]
	switch {
	case c.Pinned == "" && asked == "":
		return c.Default, nil
	case c.Pinned == "":
		return asked, nil
	case asked == "" || asked == c.Pinned:
		return c.Pinned, nil
	default:
		return "", fmt.Errorf("the service account's annotation %s is %.200q, and this node allows %q only (--%s)", c.Annotation, asked, c.Pinned, c.Flag)
	}
}

// need is of for what can't be left out.
func (c Choice) need(annotations map[string]string) (string, error) {
	value, err := c.of(annotations)
	if err == nil && value == "" {
		err = fmt.Errorf("the service account has no annotation %s, and this node has no default for it (--%s, --default-%[2]s); the CredentialProviderConfig must list the annotation for kubelet to send it", c.Annotation, c.Flag)
	}
	return value, err
}
