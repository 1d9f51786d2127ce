// Package gcs publishes into a bucket of Google Cloud Storage.
//
// Every write is conditioned on the generation that was read, which is the
// version. That makes writes idempotent, so the SDK retries them after
// temporary errors until the context ends: it has no deadline of its own. Cloud
// Storage allows about one write per second to the same object, and answers 429
// to more.
//
// No ACL is ever sent: IAM on the bucket makes objects public. Credentials are
// Application Default Credentials. The emulator that STORAGE_EMULATOR_HOST names
// gets no credentials.
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
	"net/http"
	"os"
	"path"
	"strconv"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/storage"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"oidc-publisher/backends/internal/answer"
	"oidc-publisher/publish"
)

// Backend is a bucket, or the part of one below a prefix.
type Backend struct {
	config Config
	client *storage.Client
	bucket *storage.BucketHandle
	gate   publish.Gate
}

var _ publish.Backend = (*Backend)(nil)

// Open finds the credentials. The first operation makes the first request to the
// bucket.
func (c Config) Open(ctx context.Context) (publish.Backend, error) {
	// With the JSON API, reads and writes have errors of the same form.
	options := []option.ClientOption{storage.WithJSONReads()}
	if os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{storage.ScopeReadWrite}})
		if err != nil {
			return nil, errors.New("gs://" + c.Bucket + ": " + credentialsCure + ": " + err.Error())
		}
		found.TokenProvider = provider{found.TokenProvider}
		options = append(options, option.WithAuthCredentials(found))
	}
	client, err := storage.NewClient(ctx, options...)
	if err != nil {
		return nil, errors.New("gs://" + c.Bucket + ": " + err.Error())
	}
	return &Backend{config: c, client: client, bucket: client.Bucket(c.Bucket)}, nil
}

// Get reads an object: body and metadata of the same generation.
func (b *Backend) Get(ctx context.Context, name string) (_ publish.Object, err error) {
	defer func() { err = b.explain(ctx, name, err) }()
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
	defer reader.Close() //nolint:errcheck // the body was already read
	body, err := answer.Body(reader)
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

// absent distinguishes a missing object from a missing bucket. Cloud Storage
// answers 404 for both, but only an existing bucket can be listed, or refuses
// to be.
func (b *Backend) absent(ctx context.Context, name string) error {
	_, err := b.bucket.Objects(ctx, &storage.Query{Prefix: b.key(name)}).Next()
	if err == nil || errors.Is(err, iterator.Done) || status(err) == http.StatusForbidden {
		return fs.ErrNotExist
	}
	return err
}

// Put writes an object in one request, which is cancelled after an error: closing
// the writer would store the part that was sent.
func (b *Backend) Put(ctx context.Context, object publish.Object, precondition publish.Precondition) (err error) {
	defer func() { err = b.explain(ctx, object.Name, err) }()
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
	w.ChunkSize = len(object.Body) + 1 // makes it one request, which the SDK can retry
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
		return storage.Conditions{}, fmt.Errorf("%w: %.40q is not a generation", publish.ErrPrecondition, version)
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
