// Package s3 publishes into a bucket of Amazon S3 or of a store that speaks
// its protocol.
//
// Writes are conditional (If-Match, If-None-Match), so only one of two
// concurrent writers succeeds. The version is the ETag, which S3 derives from
// the body alone. A store that ignores conditions accepts every write; the
// publisher detects that. No ACL is ever sent: a bucket policy makes objects
// public.
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
	"path"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"oidc-publisher/backends/internal/answer"
	"oidc-publisher/publish"
)

// Backend is a bucket, or the part of one below a prefix.
type Backend struct {
	config Config
	api    *s3.Client
	gate   publish.Gate
}

var _ publish.Backend = (*Backend)(nil)

// Open loads the SDK's configuration. It makes no request: the first operation
// does, for the credentials and to the bucket.
func (c Config) Open(ctx context.Context) (publish.Backend, error) {
	loaded, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(c.Region),
		config.WithLogger(logging.Nop{}), // only the command writes to stderr
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
	return &Backend{config: c, api: s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
			// Some stores don't support the checksum trailers that the SDK adds by
			// default. The signature covers the body in any case.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	})}, nil
}

// Get reads an object. Without the permission s3:ListBucket Amazon answers 403
// for an absent object. That is an error, since the object may exist.
func (b *Backend) Get(ctx context.Context, name string) (_ publish.Object, err error) {
	defer func() { err = b.explain(ctx, name, readAccess, err) }()
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
	body, err := answer.Body(out.Body)
	if err != nil {
		return publish.Object{}, err
	}
	if aws.ToString(out.ETag) == "" {
		return publish.Object{}, errors.New("the store returned no ETag, so writes can't be conditional: use another store")
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
func (b *Backend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) (err error) {
	defer func() { err = b.explain(ctx, object.Name, writeAccess, err) }()
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
	_, err = b.api.PutObject(ctx, in)
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

// header omits an empty value, because some stores compute the signature
// without an empty header.
func header(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}
