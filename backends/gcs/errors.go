package gcs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"

	"oidc-publisher/internal/gate"
	"oidc-publisher/publish"
)

// provider marks the errors of getting a token as such.
type provider struct{ auth.TokenProvider }

func (p provider) Token(ctx context.Context) (*auth.Token, error) {
	token, err := p.TokenProvider.Token(ctx)
	if err != nil {
		return nil, &credentialsError{err}
	}
	return token, nil
}

type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// explain turns the SDK's error into one that names the target and the cure.
// The SDK's own text stays out of it wherever a server had a hand in it, and
// its error is not wrapped: a missing credentials file must not pass for an
// absent object.
func (b *Backend) explain(ctx context.Context, name string, err error) error {
	target := "gs://" + path.Join(b.config.Bucket, b.key(name))
	var credentials *credentialsError
	for _, ours := range []error{
		fs.ErrNotExist, publish.ErrPrecondition, publish.ErrTooLarge, publish.ErrInvalidName, publish.ErrClosed,
	} {
		if errors.Is(err, ours) && !errors.As(err, &credentials) {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	ended := gate.Ended(ctx, err)
	if text := b.describe(err, ended); text != "" {
		target += ": " + text
	}
	if ended != nil {
		return fmt.Errorf("%s: %w", target, ended)
	}
	return errors.New(target)
}

func (b *Backend) describe(err, ended error) string {
	var credentials *credentialsError
	if errors.As(err, &credentials) {
		return describeCredentials(credentials.err)
	}
	if text := b.describeStatus(err); text != "" {
		return text
	}
	switch {
	case errors.Is(ended, context.DeadlineExceeded):
		// The SDK tries until the deadline: why it had to is the cause.
		if cause := local(err); cause != "" && cause != ended.Error() {
			return "no answer in time: " + cause
		}
		return "no answer in time"
	case ended != nil:
		return ""
	}
	if cause := local(err); cause != "" {
		return "no answer from Cloud Storage: " + cause
	}
	return err.Error()
}

func (b *Backend) describeStatus(err error) string {
	switch code := status(err); {
	case code == 0:
		return ""
	case code == http.StatusUnauthorized:
		return "the Google credentials were refused: renew them with `gcloud auth application-default login`, or look at the workload identity"
	case code == http.StatusForbidden:
		return fmt.Sprintf("access denied%s: grant roles/storage.objectUser on bucket %s (an overwrite takes storage.objects.create, get and delete)",
			reason(err), b.config.Bucket)
	case code == http.StatusNotFound:
		return fmt.Sprintf("bucket %s does not exist: create it first, or mend the target", b.config.Bucket)
	case code == http.StatusTooManyRequests:
		return "Cloud Storage asks to slow down (HTTP status 429; it takes one write per second to an object): try again later"
	case code >= 500:
		return fmt.Sprintf("Cloud Storage is not well (HTTP status %d): try again later", code)
	default:
		return fmt.Sprintf("Cloud Storage refused the request with HTTP status %d%s", code, reason(err))
	}
}

// status is the HTTP status of an answer that was an error, or 0.
func status(err error) int {
	var answer *googleapi.Error
	if errors.As(err, &answer) {
		return answer.Code
	}
	if errors.Is(err, storage.ErrObjectNotExist) || errors.Is(err, storage.ErrBucketNotExist) {
		return http.StatusNotFound
	}
	return 0
}

// reason is Google's word for the error, such as accountDisabled.
func reason(err error) string {
	var answer *googleapi.Error
	if errors.As(err, &answer) && len(answer.Errors) > 0 && gate.IsWord(answer.Errors[0].Reason) {
		return " (" + answer.Errors[0].Reason + ")"
	}
	return ""
}

const credentialsCure = "no usable Google credentials: run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or use workload identity"

func describeCredentials(err error) string {
	var answer *auth.Error
	if errors.As(err, &answer) && answer.Response != nil {
		return fmt.Sprintf("%s: the token service answered HTTP status %d", credentialsCure, answer.Response.StatusCode)
	}
	if cause := local(err); cause != "" {
		return credentialsCure + ": " + cause
	}
	return credentialsCure
}

// local describes an error of this machine or its network, and is empty for
// others, whose text a server may have written.
func local(err error) string {
	var file *fs.PathError
	var network *net.OpError
	var name *net.DNSError
	var request *url.Error
	switch {
	case errors.As(err, &file):
		return file.Error()
	case errors.As(err, &name):
		return name.Error()
	case errors.As(err, &network):
		return network.Error()
	case errors.As(err, &request):
		return gate.Unanswered(request.Err)
	}
	return ""
}
