// Package gcs publishes into a bucket of Google Cloud Storage.
//
// Every write is conditioned on the generation that was read, which is the
// version. That makes writes idempotent, so the SDK repeats them after
// temporary errors for as long as the context allows: it has no deadline of
// its own. Cloud Storage takes about one write per second to the same object
// and answers 429 above that.
//
// No ACL is ever sent: IAM on the bucket makes objects public. Credentials are
// Application Default Credentials, or none at all towards the emulator that
// STORAGE_EMULATOR_HOST names.
//
// See https://cloud.google.com/storage/docs/request-preconditions and
// https://cloud.google.com/storage/docs/json_api/v1/status-codes.
package gcs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"oidc-publisher/internal/gate"
	"oidc-publisher/publish"
)

// Config says where to publish. Only Bucket is required.
type Config struct {
	Bucket string
	// Prefix is put before object names, with a slash between.
	Prefix string
}

// Backend is a bucket, or the part of one below a prefix.
type Backend struct {
	config Config
	client *storage.Client
	bucket *storage.BucketHandle
	gate   gate.Gate
}

var _ publish.Backend = (*Backend)(nil)

// Open finds the credentials. It makes no request to the bucket: that is first
// tried by the first operation.
func Open(ctx context.Context, c Config) (*Backend, error) {
	// The JSON API answers in one voice for reads and writes.
	options := []option.ClientOption{storage.WithJSONReads()}
	if os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		found, err := findCredentials()
		if err != nil {
			return nil, errors.New("gs://" + c.Bucket + ": " + credentialsCure + ": " + err.Error())
		}
		options = append(options, option.WithAuthCredentials(found))
	}
	client, err := storage.NewClient(ctx, options...)
	if err != nil {
		return nil, errors.New("gs://" + c.Bucket + ": " + err.Error())
	}
	return &Backend{config: c, client: client, bucket: client.Bucket(c.Bucket)}, nil
}

func findCredentials() (*auth.Credentials, error) {
	found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{storage.ScopeReadWrite}})
	if err != nil {
		return nil, err
	}
	found.TokenProvider = provider{found.TokenProvider}
	return found, nil
}

// Get reads an object, all of one generation.
func (b *Backend) Get(ctx context.Context, name string) (publish.Object, error) {
	object, err := b.get(ctx, name)
	if err != nil {
		return publish.Object{}, b.explain(ctx, name, err)
	}
	return object, nil
}

func (b *Backend) get(ctx context.Context, name string) (publish.Object, error) {
	if err := b.gate.Get(ctx, name); err != nil {
		return publish.Object{}, err
	}
	reader, err := b.object(name).NewReader(ctx)
	if errors.Is(err, storage.ErrObjectNotExist) {
		return publish.Object{}, b.absent(ctx, name)
	}
	if err != nil {
		return publish.Object{}, err
	}
	defer reader.Close() //nolint:errcheck // what was read is read
	body, err := gate.ReadAll(reader)
	if err != nil {
		return publish.Object{}, err
	}
	return publish.Object{
		Name:         name,
		Body:         body,
		ContentType:  reader.Attrs.ContentType,
		CacheControl: reader.Attrs.CacheControl,
		Version:      strconv.FormatInt(reader.Attrs.Generation, 10),
	}, nil
}

// absent tells a missing object from a missing bucket: both read as 404, but
// only a bucket that is there can be listed, or listing it be forbidden.
func (b *Backend) absent(ctx context.Context, name string) error {
	_, err := b.bucket.Objects(ctx, &storage.Query{Prefix: b.key(name)}).Next()
	if err == nil || errors.Is(err, iterator.Done) || status(err) == http.StatusForbidden {
		return fs.ErrNotExist
	}
	return err
}

// Put writes an object in one request, which is cancelled when anything goes
// wrong: a writer that is closed instead would store what it has.
func (b *Backend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := b.put(ctx, object, precondition); err != nil {
		return b.explain(ctx, object.Name, err)
	}
	return nil
}

func (b *Backend) put(ctx context.Context, object publish.Object, precondition publish.Precondition) error {
	if err := b.gate.Put(ctx, object); err != nil {
		return err
	}
	conditions, err := translate(precondition)
	if err != nil {
		return err
	}
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	w := b.object(object.Name).If(conditions).NewWriter(writing)
	w.ChunkSize = len(object.Body) + 1 // one request, which the SDK can repeat
	w.ContentType = object.ContentType
	w.CacheControl = object.CacheControl
	w.CRC32C = crc32.Checksum(object.Body, crc32.MakeTable(crc32.Castagnoli))
	w.SendCRC32C = true
	if _, err := w.Write(object.Body); err != nil {
		cancel()
		return errors.Join(err, w.Close())
	}
	err = w.Close()
	if status(err) == http.StatusPreconditionFailed {
		return publish.ErrPrecondition
	}
	return err
}

func translate(precondition publish.Precondition) (storage.Conditions, error) {
	version, ok := precondition.Version()
	if !ok {
		return storage.Conditions{DoesNotExist: true}, nil
	}
	generation, err := strconv.ParseInt(version, 10, 64)
	if err != nil || generation <= 0 {
		return storage.Conditions{}, fmt.Errorf("%w: %.40q is no generation", publish.ErrPrecondition, version)
	}
	return storage.Conditions{GenerationMatch: generation}, nil
}

// Close closes the client's connections.
func (b *Backend) Close() error {
	if !b.gate.Close() {
		return nil
	}
	return b.client.Close()
}

func (b *Backend) key(name string) string { return path.Join(b.config.Prefix, name) }

func (b *Backend) object(name string) *storage.ObjectHandle { return b.bucket.Object(b.key(name)) }

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
