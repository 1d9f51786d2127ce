// Package s3 publishes into a bucket of Amazon S3 or of a store that speaks
// its protocol.
//
// Writes are conditional (If-Match, If-None-Match): of two writers one loses.
// The version is the ETag, which S3 derives from the body alone. A store that
// ignores conditions accepts every write; that is for the publisher to find
// out. No ACL is ever sent: a bucket policy makes objects public.
//
// Credentials come only from the AWS SDK's chain. The SDK tries an operation
// three times and has no deadline of its own: the context is the deadline.
//
// See https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
// and https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"oidc-publisher/internal/gate"
	"oidc-publisher/publish"
)

// Config says where to publish. Only Bucket is required.
type Config struct {
	Bucket string
	// Prefix is put before object names, with a slash between.
	Prefix string
	// Region is the bucket's; if empty, that of the SDK's chain (AWS_REGION,
	// the profile), and us-east-1 for an Endpoint that isn't Amazon's.
	Region string
	// Endpoint is the base URL of a store other than Amazon's.
	Endpoint string
	// PathStyle puts the bucket into the path instead of the host name, as
	// most other stores want it.
	PathStyle bool
}

// api is what is used of the SDK's client.
type api interface {
	GetObject(context.Context, *s3.GetObjectInput, ...func(*s3.Options)) (*s3.GetObjectOutput, error)
	PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
}

// Backend is a bucket, or the part of one below a prefix.
type Backend struct {
	config Config
	api    api
	gate   gate.Gate
}

var _ publish.Backend = (*Backend)(nil)

// Open loads the SDK's configuration. It makes no request: credentials and
// bucket are first tried by the first operation.
func Open(ctx context.Context, c Config) (*Backend, error) {
	loaded, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(c.Region),
		config.WithLogger(logging.Nop{}), // stderr belongs to the command
	)
	if err != nil {
		return nil, errors.New("s3://" + c.Bucket + ": AWS configuration: " + err.Error())
	}
	if loaded.Region == "" && c.Endpoint != "" {
		loaded.Region = "us-east-1"
	}
	if loaded.Region == "" {
		return nil, fmt.Errorf("s3://%s: no region: add ?region=REGION to the target or set AWS_REGION", c.Bucket)
	}
	c.Region = loaded.Region
	loaded.Credentials = chain{loaded.Credentials}
	return &Backend{config: c, api: s3.NewFromConfig(loaded, c.apply)}, nil
}

func (c Config) apply(o *s3.Options) {
	o.UsePathStyle = c.PathStyle
	o.DisableLogOutputChecksumValidationSkipped = true
	if c.Endpoint != "" {
		o.BaseEndpoint = aws.String(c.Endpoint)
		// Other stores don't all know the checksum trailers that the SDK adds
		// by default. The signature covers the body in any case.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
}

// Get reads an object. Without the permission s3:ListBucket Amazon answers 403
// for an absent object; that is an error, since it may as well be there.
func (b *Backend) Get(ctx context.Context, name string) (publish.Object, error) {
	object, err := b.get(ctx, name)
	if err != nil {
		return publish.Object{}, b.explain(ctx, name, readAccess, err)
	}
	return object, nil
}

func (b *Backend) get(ctx context.Context, name string) (publish.Object, error) {
	if err := b.gate.Get(ctx, name); err != nil {
		return publish.Object{}, err
	}
	out, err := b.api.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.config.Bucket, Key: b.key(name)})
	if code(err) == "NoSuchKey" {
		return publish.Object{}, fs.ErrNotExist
	}
	if err != nil {
		return publish.Object{}, err
	}
	defer out.Body.Close()
	body, err := gate.ReadAll(out.Body)
	if err != nil {
		return publish.Object{}, err
	}
	if aws.ToString(out.ETag) == "" {
		return publish.Object{}, errNoETag
	}
	return publish.Object{
		Name:         name,
		Body:         body,
		ContentType:  aws.ToString(out.ContentType),
		CacheControl: aws.ToString(out.CacheControl),
		Version:      *out.ETag,
	}, nil
}

// Put writes an object. After a lost acknowledgement the SDK tries again and
// then sees its own first write: that is reported as ErrPrecondition.
func (b *Backend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := b.put(ctx, object, precondition); err != nil {
		return b.explain(ctx, object.Name, writeAccess, err)
	}
	return nil
}

func (b *Backend) put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := b.gate.Put(ctx, object); err != nil {
		return err
	}
	in := &s3.PutObjectInput{
		Bucket:       &b.config.Bucket,
		Key:          b.key(object.Name),
		Body:         bytes.NewReader(object.Body),
		ContentType:  header(object.ContentType),
		CacheControl: header(object.CacheControl),
	}
	if version, ok := precondition.Version(); ok {
		in.IfMatch = &version
	} else {
		in.IfNoneMatch = aws.String("*")
	}
	_, err := b.api.PutObject(ctx, in)
	switch code(err) {
	case "PreconditionFailed", "ConditionalRequestConflict":
		return publish.ErrPrecondition
	case "NoSuchKey": // If-Match on an object that was deleted
		return fmt.Errorf("%w: it was deleted", publish.ErrPrecondition)
	}
	return err
}

// Close makes later calls fail. Idle connections close by themselves.
func (b *Backend) Close() error {
	b.gate.Close()
	return nil
}

func (b *Backend) key(name string) *string { return aws.String(path.Join(b.config.Prefix, name)) }

// header leaves out what is empty: some stores sign an absent header and
// receive an empty one.
func header(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}

var errNoETag = errors.New("the store returned no ETag, so writes can't be conditional: use another store")

// chain marks the errors of the SDK's credential chain as such.
type chain struct{ aws.CredentialsProvider }

func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	credentials, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return credentials, &credentialsError{err}
	}
	return credentials, nil
}

type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// access is a kind of request, for the advice when it is denied.
type access string

const (
	readAccess  access = "allow s3:GetObject on %[1]s and s3:ListBucket on %[2]s (without s3:ListBucket an absent object is denied too)"
	writeAccess access = "allow s3:PutObject and s3:GetObject on %[1]s, and look for a bucket policy that denies"
)

// explain turns the SDK's error into one that names the target and the cure.
// The SDK's own text stays out of it wherever a server had a hand in it, and
// its error is not wrapped: a missing token file must not pass for an absent
// object.
func (b *Backend) explain(ctx context.Context, name string, kind access, err error) error {
	target := "s3://" + path.Join(b.config.Bucket, *b.key(name))
	for _, ours := range []error{
		fs.ErrNotExist, publish.ErrPrecondition, publish.ErrTooLarge, publish.ErrInvalidName, publish.ErrClosed, errNoETag,
	} {
		if isOurs(err, ours) {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	ended := gate.Ended(ctx, err)
	if text := b.describe(kind, err, ended); text != "" {
		target += ": " + text
	}
	if ended != nil {
		return fmt.Errorf("%s: %w", target, ended)
	}
	return errors.New(target)
}

// isOurs reports whether the error was made here, rather than by the SDK from
// the like of a missing file.
func isOurs(err, ours error) bool {
	var operation *smithy.OperationError
	return errors.Is(err, ours) && !errors.As(err, &operation)
}

func (b *Backend) describe(kind access, err, ended error) string {
	var credentials *credentialsError
	switch {
	case errors.As(err, &credentials):
		return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role: " +
			local("the credential service", credentials.err)
	case errors.Is(ended, context.DeadlineExceeded):
		return "no answer in time"
	case ended != nil:
		return ""
	}
	if region := actualRegion(err); region != "" && region != b.config.Region {
		return fmt.Sprintf("the bucket is in region %s, not %s: use ?region=%s", region, b.config.Region, region)
	}
	if publicAccessBlocked(err) {
		return "S3 Block Public Access forbids this write: allow public bucket policies on the bucket and its account"
	}
	if text := b.describeCode(kind, code(err)); text != "" {
		return text
	}
	return local("the store", err)
}

// publicAccessBlocked reads the one refusal that has no code of its own.
func publicAccessBlocked(err error) bool {
	var failure smithy.APIError
	return errors.As(err, &failure) && strings.Contains(failure.ErrorMessage(), "BlockPublic")
}

func (b *Backend) describeCode(kind access, code string) string {
	arn := "arn:aws:s3:::" + b.config.Bucket
	switch code {
	case "NoSuchBucket":
		return fmt.Sprintf("bucket %s does not exist at %s: create it first, or mend the target", b.config.Bucket, b.place())
	case "AccessDenied", "Forbidden", "AllAccessDisabled":
		return "access denied: " + fmt.Sprintf(string(kind), arn+path.Join("/", b.config.Prefix, "*"), arn)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return "the AWS credentials were refused (" + code + "): renew them, and see that they are for " + b.place()
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong: set it"
	case "PermanentRedirect", "MovedPermanently", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return fmt.Sprintf("the bucket is not in region %s: say which with ?region=REGION", b.config.Region)
	case "AccessControlListNotSupported":
		return "the bucket takes no ACL and none was sent: look for a proxy or a policy that adds one"
	case "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException":
		return "the store asks to slow down (" + code + "): try again later"
	case "NotImplemented":
		return "the store can't do a conditional write: use another store"
	case "QuotaExceeded", "XMinioStorageFull":
		return "the store has no room (" + code + ")"
	}
	return ""
}

// place names the endpoint, which carries no credentials, or the region.
func (b *Backend) place() string {
	if b.config.Endpoint != "" {
		return b.config.Endpoint
	}
	return "Amazon S3 in " + b.config.Region
}

// code returns S3's name for the error. An answer without one, such as that to
// a HEAD or of a proxy, is known by its status alone.
func code(err error) string {
	var response *smithyhttp.ResponseError
	var failure smithy.APIError
	status := 0
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	if errors.As(err, &failure) && gate.IsWord(failure.ErrorCode()) && failure.ErrorCode() != "UnknownError" {
		return failure.ErrorCode()
	}
	switch status {
	case http.StatusPreconditionFailed:
		return "PreconditionFailed"
	case http.StatusForbidden, http.StatusUnauthorized:
		return "AccessDenied"
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return "PermanentRedirect"
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return "SlowDown"
	case http.StatusNotImplemented:
		return "NotImplemented"
	}
	return ""
}

// actualRegion is the region that S3 says the bucket is in.
func actualRegion(err error) string {
	var response *smithyhttp.ResponseError
	if !errors.As(err, &response) || response.Response == nil {
		return ""
	}
	if region := response.Response.Header.Get("X-Amz-Bucket-Region"); gate.IsWord(region) {
		return region
	}
	return ""
}

// local describes an error by what this machine knows of it.
func local(who string, err error) string {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) && response.Response != nil && response.HTTPStatusCode() != 0 {
		return fmt.Sprintf("%s answered HTTP status %d %s: is the endpoint right, and is it well?", who, response.HTTPStatusCode(), code(err))
	}
	var request *url.Error
	if errors.As(err, &request) {
		return fmt.Sprintf("no answer from %s: %s", who, gate.Unanswered(request.Err))
	}
	var failure smithy.APIError
	if errors.As(err, &failure) {
		return fmt.Sprintf("%s refused: %s", who, code(err))
	}
	return err.Error()
}
