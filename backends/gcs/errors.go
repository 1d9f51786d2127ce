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

	"oidc-publisher/backends/internal/answer"
)

// provider marks the errors of fetching a token.
type provider struct{ auth.TokenProvider }

func (p provider) Token(ctx context.Context) (*auth.Token, error) {
	token, err := p.TokenProvider.Token(ctx)
	if err != nil {
		return nil, &answer.CredentialsError{Err: err}
	}
	return token, nil
}

func (b *Backend) explain(ctx context.Context, name string, err error) error {
	credentials, missing := errors.AsType[*answer.CredentialsError](err)
	return answer.Explain(ctx, "gs://"+path.Join(b.config.Bucket, b.key(name)), err, missing, func(ended error) string {
		if missing {
			return describeCredentials(credentials.Err)
		}
		if text := b.describeStatus(err); text != "" {
			return text
		}
		cause := local(err)
		switch {
		case errors.Is(ended, context.DeadlineExceeded) && cause != "" && cause != ended.Error():
			return "no answer in time: " + cause // the SDK tries until the deadline
		case errors.Is(ended, context.DeadlineExceeded):
			return "no answer in time"
		case ended != nil:
			return ""
		case cause != "":
			return "no answer from Cloud Storage: " + cause
		}
		return err.Error()
	})
}

func (b *Backend) describeStatus(err error) string {
	switch code := status(err); {
	case code == 0:
		return ""
	case code == http.StatusUnauthorized:
		return "the Google credentials were refused: renew them with `gcloud auth application-default login`, or check the workload identity"
	case code == http.StatusForbidden:
		return fmt.Sprintf("access denied%s: grant roles/storage.objectUser on bucket %s (an overwrite needs storage.objects.create, get and delete)",
			reason(err), b.config.Bucket)
	case code == http.StatusNotFound:
		return fmt.Sprintf("bucket %s does not exist: create it first, or correct the target", b.config.Bucket)
	case code == http.StatusTooManyRequests:
		return "Cloud Storage asks to slow down (HTTP status 429; it allows one write per second to an object): try again later"
	case code >= 500:
		return fmt.Sprintf("Cloud Storage failed (HTTP status %d): try again later", code)
	default:
		return fmt.Sprintf("Cloud Storage refused the request with HTTP status %d%s", code, reason(err))
	}
}

// status returns the HTTP status of an answer that is an error, or 0.
func status(err error) int {
	if failure, ok := errors.AsType[*googleapi.Error](err); ok {
		return failure.Code
	}
	if errors.Is(err, storage.ErrObjectNotExist) || errors.Is(err, storage.ErrBucketNotExist) {
		return http.StatusNotFound
	}
	return 0
}

// reason returns Google's name of the error, such as accountDisabled.
func reason(err error) string {
	if failure, ok := errors.AsType[*googleapi.Error](err); ok && len(failure.Errors) > 0 && answer.IsCode(failure.Errors[0].Reason) {
		return " (" + failure.Errors[0].Reason + ")"
	}
	return ""
}

const credentialsCure = "no usable Google credentials: run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or use workload identity"

func describeCredentials(err error) string {
	if failure, ok := errors.AsType[*auth.Error](err); ok && failure.Response != nil {
		return fmt.Sprintf("%s: the token service answered HTTP status %d", credentialsCure, failure.Response.StatusCode)
	}
	if cause := local(err); cause != "" {
		return credentialsCure + ": " + cause
	}
	return credentialsCure
}

// local describes an error of this machine or its network. It returns "" for
// other errors, because a server may have written their text.
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
		return answer.Missing(request.Err)
	}
	return ""
}
