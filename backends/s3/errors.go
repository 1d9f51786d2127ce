package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"oidc-publisher/backends/internal/answer"
)

// chain marks errors of the SDK's credential chain.
type chain struct{ aws.CredentialsProvider }

func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	credentials, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return credentials, &answer.CredentialsError{Err: err}
	}
	return credentials, nil
}

// access is the kind of a request. If a request is denied, it selects the
// advice.
type access string

const (
	readAccess  access = "allow s3:GetObject on %[1]s and s3:ListBucket on %[2]s (without s3:ListBucket an absent object is denied too)"
	writeAccess access = "allow s3:PutObject and s3:GetObject on %[1]s, and check for a bucket policy that denies"
)

func (b *Backend) explain(ctx context.Context, name string, kind access, err error) error {
	_, fromSDK := errors.AsType[*smithy.OperationError](err)
	return answer.Explain(ctx, "s3://"+path.Join(b.config.Bucket, *b.key(name)), err, fromSDK,
		func(ended error) string { return b.describe(kind, err, ended) })
}

func (b *Backend) describe(kind access, err, ended error) string {
	credentials, missing := errors.AsType[*answer.CredentialsError](err)
	switch {
	case missing:
		return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role: " +
			local("the credential service", credentials.Err)
	case errors.Is(ended, context.DeadlineExceeded):
		return "no answer in time"
	case ended != nil:
		return ""
	}
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && response.Response != nil {
		if region := response.Response.Header.Get("X-Amz-Bucket-Region"); answer.IsCode(region) && region != b.config.Region {
			return fmt.Sprintf("the bucket is in region %s, not %s: use ?region=%s", region, b.config.Region, region)
		}
	}
	// The one refusal that is known by its message alone.
	if failure, ok := errors.AsType[smithy.APIError](err); ok && strings.Contains(failure.ErrorMessage(), "BlockPublic") {
		return "S3 Block Public Access forbids this write: allow public bucket policies on the bucket and its account"
	}
	if text := b.describeCode(kind, code(err)); text != "" {
		return text
	}
	return local("the store", err)
}

func (b *Backend) describeCode(kind access, code string) string {
	arn, place := "arn:aws:s3:::"+b.config.Bucket, "Amazon S3 in "+b.config.Region
	if b.config.Endpoint != "" {
		place = b.config.Endpoint // it has no credentials
	}
	switch code {
	case "NoSuchBucket":
		return fmt.Sprintf("bucket %s does not exist at %s: create it first, or correct the target", b.config.Bucket, place)
	case "AccessDenied", "Forbidden", "AllAccessDisabled":
		return "access denied: " + fmt.Sprintf(string(kind), arn+path.Join("/", b.config.Prefix, "*"), arn)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return "the AWS credentials were refused (" + code + "): renew them, and check that they are for " + place
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong: set it"
	case "PermanentRedirect", "MovedPermanently", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return fmt.Sprintf("the bucket is not in region %s: give its own with ?region=REGION", b.config.Region)
	case "AccessControlListNotSupported":
		return "the bucket accepts no ACL, and none was sent: check for a proxy or a policy that adds one"
	case "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException":
		return "the store asks to slow down (" + code + "): try again later"
	case "NotImplemented":
		return "the store can't do a conditional write: use another store"
	case "QuotaExceeded", "XMinioStorageFull":
		return "the store is full (" + code + ")"
	}
	return ""
}

// code returns S3's code of the error or, if there is none, as in the answer of
// a proxy, its status.
func code(err error) string {
	if failure, ok := errors.AsType[smithy.APIError](err); ok && answer.IsCode(failure.ErrorCode()) && failure.ErrorCode() != "UnknownError" {
		return failure.ErrorCode()
	}
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return codeOfStatus[response.HTTPStatusCode()]
	}
	return ""
}

var codeOfStatus = map[int]string{
	http.StatusPreconditionFailed: "PreconditionFailed",
	http.StatusForbidden:          "AccessDenied",
	http.StatusUnauthorized:       "AccessDenied",
	http.StatusMovedPermanently:   "PermanentRedirect",
	http.StatusTemporaryRedirect:  "PermanentRedirect",
	http.StatusServiceUnavailable: "SlowDown",
	http.StatusTooManyRequests:    "SlowDown",
	http.StatusNotImplemented:     "NotImplemented",
}

// local describes an error without any text of a server.
func local(who string, err error) string {
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && response.Response != nil && response.HTTPStatusCode() != 0 {
		return fmt.Sprintf("%s answered HTTP status %d %s: check the endpoint", who, response.HTTPStatusCode(), code(err))
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Sprintf("no answer from %s: %s", who, answer.Missing(request.Err))
	}
	if _, ok := errors.AsType[smithy.APIError](err); ok {
		return fmt.Sprintf("%s refused: %s", who, code(err))
	}
	return err.Error()
}
