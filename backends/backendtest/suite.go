// Package backendtest defines what a publish.Backend is: Run tests any
// implementation for the same behaviour, and Memory is the smallest one that
// passes, with faults to inject for the tests of its users.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"oidc-publisher/publish"
)

const (
	// increments is the least number of read-modify-write cycles that must not
	// be lost.
	increments = 1000
	// maxIncrements ends the test if no two writes of the backend conflict.
	maxIncrements = 100 * increments
)

// timeout bounds each subtest, so that a backend that hangs fails.
const timeout = 2 * time.Minute

// Harness connects a backend to the suite, and declares what its server can't
// do. The suite fails where a declaration isn't true.
type Harness struct {
	// NewStore makes an empty store; it is called once per subtest.
	NewStore func(t testing.TB) Store
	// BytesOnly means that the store keeps no metadata.
	BytesOnly bool
	// ForbidsNothing means that the server accepts every write.
	ForbidsNothing bool
	// CreatesStore means that a missing store reads as empty, and that the first
	// write creates it.
	CreatesStore bool
	// ShortNames means that path components of more than 255 bytes are refused.
	ShortNames bool
	// Instant means that a write is over before it can be cancelled.
	Instant bool
}

// Store is one empty place. Every hook is required.
type Store struct {
	// Open returns a fresh handle on the store. The suite closes it.
	Open func(t testing.TB) publish.Backend
	// Place stores an object without the backend.
	Place func(t testing.TB, name string, body []byte)
	// Remove deletes an object without the backend.
	Remove func(t testing.TB, name string)
	// Forbidden returns a handle on the store without the right to write, and
	// perhaps without the right to read either.
	Forbidden func(t testing.TB) publish.Backend
	// ForbiddenCure is what the error of a forbidden Put must contain.
	ForbiddenCure string
	// Missing returns a handle on a store that doesn't exist.
	Missing func(t testing.TB) publish.Backend
	// MissingCure is what the error of a missing store must contain.
	MissingCure string
	// Strays lists what exists around the store, outside the names that the
	// backend may write.
	Strays func(t testing.TB) []string
}

// isComplete reports whether every hook and every expected cure is set.
func (h Harness) isComplete(s Store) bool {
	return s.Open != nil && s.Place != nil && s.Remove != nil && s.Forbidden != nil && s.Missing != nil && s.Strays != nil &&
		(s.ForbiddenCure == "") == h.ForbidsNothing && (s.MissingCure == "") == h.CreatesStore
}

// Run tests a backend. Every subtest has a store of its own.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*scene)
	}{
		{"absent", absent},
		{"round trip", roundTrip},
		{"empty body", emptyBody},
		{"largest body", largestBody},
		{"overwrite", overwrite},
		{"metadata alone", metadataAlone},
		{"create only", createOnly},
		{"version lost", versionLost},
		{"version deleted", versionDeleted},
		{"version of nothing", versionOfNothing},
		{"no lost update", noLostUpdate},
		{"racing creators", racingCreators},
		{"no torn read", noTornRead},
		{"hostile names", hostileNames},
		{"long component", longComponent},
		{"odd names", oddNames},
		{"cancelled before", cancelledBefore},
		{"cancelled during", cancelledDuring},
		{"oversize put", oversizePut},
		{"oversize get", oversizeGet},
		{"forbidden", forbidden},
		{"missing store", missingStore},
		{"closed", closed},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			store := h.NewStore(t)
			if !h.isComplete(store) {
				t.Fatal("a hook or a cure is missing, or a cure is never looked for")
			}
			test.run(&scene{T: t, ctx: ctx, harness: h, store: store})
		})
	}
}

// scene is the state of one subtest.
type scene struct {
	*testing.T
	ctx     context.Context //nolint:containedctx // valid as long as the T beside it
	harness Harness
	store   Store
}

func (s *scene) open() publish.Backend {
	s.Helper()
	return s.keep(s.store.Open(s))
}

func (s *scene) keep(b publish.Backend) publish.Backend {
	s.Cleanup(func() {
		if err := b.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	return b
}

func (s *scene) put(b publish.Backend, o publish.Object, p publish.Precondition) {
	s.Helper()
	if err := b.Put(s.ctx, o, p); err != nil {
		s.Fatalf("Put %q: %v", o.Name, err)
	}
}

func (s *scene) get(b publish.Backend, name string) publish.Object {
	s.Helper()
	o, err := b.Get(s.ctx, name)
	if err != nil {
		s.Fatalf("Get %q: %v", name, err)
	}
	return o
}

// expect fails unless the store holds exactly this object.
func (s *scene) expect(b publish.Backend, want publish.Object) publish.Object {
	s.Helper()
	got := s.get(b, want.Name)
	if got.BytesOnly != s.harness.BytesOnly {
		s.Errorf("BytesOnly is %v", got.BytesOnly)
	}
	if got.Version == "" {
		s.Errorf("Get %q: no version", want.Name)
	}
	if !got.Same(want) {
		s.Fatalf("Get %q: got %s, want %s", want.Name, describe(got), describe(want))
	}
	return got
}

func describe(o publish.Object) string {
	return fmt.Sprintf("%q with %d bytes %.40q, content type %q, cache control %q",
		o.Name, len(o.Body), o.Body, o.ContentType, o.CacheControl)
}

func (s *scene) wantError(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// wantOther fails if the error is one that the publisher handles, or if it
// doesn't say what the user should do.
func (s *scene) wantOther(what string, err error, cure string) {
	s.Helper()
	if err == nil {
		s.Errorf("%s: no error", what)
		return
	}
	s.Logf("%s: %v", what, err)
	for _, special := range []error{
		fs.ErrNotExist, publish.ErrPrecondition, publish.ErrClosed, publish.ErrInvalidName, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, special) {
			s.Errorf("%s: the error is mistaken for %q: %v", what, special, err)
		}
	}
	if !strings.Contains(err.Error(), cure) {
		s.Errorf("%s: the error doesn't contain %q: %v", what, cure, err)
	}
}

const jwks = "openid/v1/jwks"

func object(name, body string) publish.Object {
	return publish.Object{
		Name:         name,
		Body:         []byte(body),
		ContentType:  "application/jwk-set+json",
		CacheControl: "public, max-age=60",
	}
}

func absent(s *scene) {
	b := s.open()
	_, err := b.Get(s.ctx, jwks)
	s.wantError("Get", err, fs.ErrNotExist)
	s.put(b, object(jwks, "keys"), publish.IfAbsent())
	_, err = b.Get(s.ctx, "openid/v1/other")
	s.wantError("Get beside an object", err, fs.ErrNotExist)
}

func roundTrip(s *scene) {
	b := s.open()
	put := object(jwks, "keys")
	put.Version = "to be ignored"
	s.put(b, put, publish.IfAbsent())
	put.Body[0] = 'K'
	want := object(jwks, "keys")
	got := s.expect(b, want)
	got.Body[0] = 'K'
	s.expect(b, want)
	again := s.expect(s.open(), want)
	if again.Version != got.Version {
		s.Errorf("version %q from one handle, %q from another", got.Version, again.Version)
	}
}

func emptyBody(s *scene) {
	b := s.open()
	s.put(b, object(jwks, ""), publish.IfAbsent())
	got := s.expect(b, object(jwks, ""))
	s.wantError("create again", b.Put(s.ctx, object(jwks, "x"), publish.IfAbsent()), publish.ErrPrecondition)
	s.put(b, object(jwks, "keys"), publish.IfVersion(got.Version))
	s.expect(b, object(jwks, "keys"))
}

func largestBody(s *scene) {
	b, want := s.open(), object(jwks, strings.Repeat("k", publish.MaxObjectSize))
	s.put(b, want, publish.IfAbsent())
	s.expect(b, want)
}

func overwrite(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "a much longer first body"), publish.IfAbsent())
	first := s.get(b, jwks)
	want := publish.Object{Name: jwks, Body: []byte("second"), ContentType: "application/json", CacheControl: "no-store"}
	s.put(b, want, publish.IfVersion(first.Version))
	second := s.expect(b, want)
	if second.Version == first.Version {
		s.Errorf("two bodies have the version %q", first.Version)
	}
	s.expect(s.open(), want)
}

func metadataAlone(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "keys"), publish.IfAbsent())
	want := object(jwks, "keys")
	want.ContentType, want.CacheControl = "application/json", "public, max-age=5"
	s.put(b, want, publish.IfVersion(s.get(b, jwks).Version))
	s.expect(b, want)
}

func createOnly(s *scene) {
	b, other := s.open(), s.open()
	s.put(b, object(jwks, "mine"), publish.IfAbsent())
	s.wantError("Put", other.Put(s.ctx, object(jwks, "theirs"), publish.IfAbsent()), publish.ErrPrecondition)
	s.wantError("Put of the same", other.Put(s.ctx, object(jwks, "mine"), publish.IfAbsent()), publish.ErrPrecondition)
	s.expect(b, object(jwks, "mine"))
}

func versionLost(s *scene) {
	b, other := s.open(), s.open()
	s.put(b, object(jwks, "first"), publish.IfAbsent())
	stale := s.get(b, jwks)
	s.put(other, object(jwks, "theirs"), publish.IfVersion(stale.Version))
	s.wantError("Put", b.Put(s.ctx, object(jwks, "mine"), publish.IfVersion(stale.Version)), publish.ErrPrecondition)
	s.expect(b, object(jwks, "theirs"))
}

func versionDeleted(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "first"), publish.IfAbsent())
	stale := s.get(b, jwks)
	s.store.Remove(s, jwks)
	s.wantError("Put", b.Put(s.ctx, object(jwks, "mine"), publish.IfVersion(stale.Version)), publish.ErrPrecondition)
	_, err := b.Get(s.ctx, jwks)
	s.wantError("Get", err, fs.ErrNotExist)
	s.put(b, object(jwks, "again"), publish.IfAbsent())
	s.expect(b, object(jwks, "again"))
}

func versionOfNothing(s *scene) {
	b := s.open()
	s.wantError("Put", b.Put(s.ctx, object(jwks, "x"), publish.IfVersion("12345")), publish.ErrPrecondition)
	s.put(b, object(jwks, "keys"), publish.IfAbsent())
	s.wantError("Put", b.Put(s.ctx, object(jwks, "x"), publish.IfVersion("not a version")), publish.ErrPrecondition)
	s.expect(b, object(jwks, "keys"))
}

// noLostUpdate increments a counter from several goroutines through two
// handles, until some of their writes have conflicted. If an update overwrote
// another, there are more successes than the counter says.
func noLostUpdate(s *scene) {
	handles := []publish.Backend{s.open(), s.open()}
	s.put(handles[0], object(jwks, "0"), publish.IfAbsent())
	var successes, conflicts atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 4 {
		wg.Go(func() {
			<-start
			for s.increment(handles[i%len(handles)], &successes, &conflicts) {
			}
		})
	}
	close(start)
	wg.Wait()
	s.Logf("%d successes, %d conflicts", successes.Load(), conflicts.Load())
	if value := string(s.get(handles[0], jwks).Body); value != strconv.FormatInt(successes.Load(), 10) || successes.Load() < increments {
		s.Errorf("%d successful increments, want at least %d, made %s of 0", successes.Load(), increments, value)
	}
	if conflicts.Load() == 0 {
		s.Error("no two writes conflicted")
	}
}

func (s *scene) increment(b publish.Backend, successes, conflicts *atomic.Int64) bool {
	current, err := b.Get(s.ctx, jwks)
	if err != nil {
		s.Errorf("Get: %v", err)
		return false
	}
	value, err := strconv.Atoi(string(current.Body))
	if err != nil {
		s.Errorf("Get: the counter is %q", current.Body)
		return false
	}
	if value >= increments && conflicts.Load() > 0 {
		return false
	}
	runtime.Gosched() // lets another writer run, even if both calls are instant
	err = b.Put(s.ctx, object(jwks, strconv.Itoa(value+1)), publish.IfVersion(current.Version))
	switch {
	case err == nil:
		successes.Add(1)
	case errors.Is(err, publish.ErrPrecondition):
		conflicts.Add(1)
	default:
		s.Errorf("Put: %v", err)
	}
	// With lost updates, the counter might never reach its goal.
	return successes.Load() < maxIncrements && !s.Failed()
}

func racingCreators(s *scene) {
	handles := []publish.Backend{s.open(), s.open()}
	var winners atomic.Int64
	var winner atomic.Pointer[publish.Object]
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 40 {
		wg.Go(func() {
			mine := object(jwks, fmt.Sprintf("creator %d", i))
			<-start
			err := handles[i%len(handles)].Put(s.ctx, mine, publish.IfAbsent())
			if err == nil {
				winners.Add(1)
				winner.Store(&mine)
			} else if !errors.Is(err, publish.ErrPrecondition) {
				s.Errorf("creator %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if winners.Load() != 1 {
		s.Fatalf("%d of 40 creators won, want 1", winners.Load())
	}
	s.expect(handles[0], *winner.Load())
}

// noTornRead reads while objects are replaced. Body and metadata of the same
// object carry the same letter. It ends when enough reads overlapped a write.
func noTornRead(s *scene) {
	const enough = 60
	writer, reader := s.open(), s.open()
	s.put(writer, lettered(0), publish.IfAbsent())
	var writes, overlapping atomic.Int64 // writes is odd during a write
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !isClosed(done) && !s.Failed() {
				before := writes.Load()
				s.checkLettered(reader)
				if before%2 == 1 || writes.Load() != before {
					overlapping.Add(1)
				}
			}
		})
	}
	for i := 0; (i < enough || overlapping.Load() < enough) && s.ctx.Err() == nil && !s.Failed(); i++ {
		writes.Add(1)
		s.replace(writer, lettered(i))
		writes.Add(1)
	}
	close(done)
	wg.Wait()
	if overlapping.Load() < enough {
		s.Errorf("%d reads overlapped %d writes, want %d", overlapping.Load(), writes.Load()/2, enough)
	}
}

func lettered(i int) publish.Object {
	letter := string(rune('a' + i%26))
	return publish.Object{
		Name:         jwks,
		Body:         bytes.Repeat([]byte(letter), 100_000+1000*(i%7)),
		ContentType:  "text/" + letter,
		CacheControl: "public, max-age=" + strconv.Itoa(i%26),
	}
}

func (s *scene) checkLettered(b publish.Backend) {
	got, err := b.Get(s.ctx, jwks)
	if err != nil {
		s.Errorf("Get during writes: %v", err)
		return
	}
	if len(got.Body) < 100_000 {
		s.Errorf("torn read: %d bytes", len(got.Body))
		return
	}
	letter := got.Body[0]
	if bytes.Count(got.Body, []byte{letter}) != len(got.Body) {
		s.Error("torn read: the body is a mix of two versions")
	}
	if !got.BytesOnly && (got.ContentType != "text/"+string(letter) ||
		got.CacheControl != "public, max-age="+strconv.Itoa(int(letter-'a'))) {
		s.Errorf("torn read: body of %q with metadata %q, %q", letter, got.ContentType, got.CacheControl)
	}
}

// replace overwrites the object unconditionally. It retries after a conflict,
// for example with a cancelled write that arrives late.
func (s *scene) replace(b publish.Backend, o publish.Object) {
	s.Helper()
	for range 100 {
		err := b.Put(s.ctx, o, publish.IfVersion(s.get(b, o.Name).Version))
		if err == nil {
			return
		}
		if !errors.Is(err, publish.ErrPrecondition) {
			s.Fatalf("Put: %v", err)
		}
	}
	s.Fatal("Put: 100 lost races without another writer")
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func hostileNames(s *scene) {
	b := s.open()
	for _, name := range []string{
		"", ".", "..", "../x", "../../x", "a/../../x", "a/..", "a/../x", "/", "/etc/x", "//x", "a//b", "a/", "./a", "a/./b",
		`a\b`, `..\x`, "a\x00b", "a\nb", "a\x7fb", "\xff", strings.Repeat("a/", 1000) + "x",
	} {
		_, err := b.Get(s.ctx, name)
		s.wantError(fmt.Sprintf("Get %.40q", name), err, publish.ErrInvalidName)
		err = b.Put(s.ctx, object(name, "hostile"), publish.IfAbsent())
		s.wantError(fmt.Sprintf("Put %.40q", name), err, publish.ErrInvalidName)
	}
	s.put(b, object(jwks, "keys"), publish.IfAbsent())
	if strays := s.store.Strays(s); len(strays) > 0 {
		s.Errorf("written outside the store: %q", strays)
	}
}

// longComponent writes a name that object stores accept and file systems don't.
func longComponent(s *scene) {
	b, want := s.open(), object("a/"+strings.Repeat("n", 300), "long")
	if s.harness.ShortNames {
		s.wantOther("Put", b.Put(s.ctx, want, publish.IfAbsent()), "")
		return
	}
	s.put(b, want, publish.IfAbsent())
	s.expect(b, want)
}

func oddNames(s *scene) {
	b := s.open()
	names := []string{
		".well-known/openid-configuration", "with space", "a/b", "a%2Fb", "a%2fb", "%", "%zz", "plus+and&amp;=", "?q=1", "#f", "x?y#z",
		"ünï/ключ/鍵", "..a", "a..", "...", "~", "semi;colon:", "'quote\"", "UPPER", "upper", "-dash", "*", "@", "<tag>",
	}
	for _, name := range names {
		s.put(b, object(name, "body of "+name), publish.IfAbsent())
	}
	for _, name := range names {
		s.expect(b, object(name, "body of "+name))
	}
}

func cancelledBefore(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "old"), publish.IfAbsent())
	old := s.get(b, jwks)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := b.Get(ctx, jwks)
	s.wantError("Get", err, context.Canceled)
	s.wantError("Put", b.Put(ctx, object(jwks, "new"), publish.IfVersion(old.Version)), context.Canceled)
	s.expect(b, object(jwks, "old"))
}

// cancelledDuring cancels writes at many moments, before and after the end of
// the write. Then the store must hold the whole old or the whole new object; if
// Put succeeded, the new one.
func cancelledDuring(s *scene) {
	const moments, tries = 40, 400
	b := s.open()
	s.put(b, lettered(0), publish.IfAbsent())
	began := time.Now()
	s.replace(b, lettered(1))
	took := time.Since(began)
	if s.harness.Instant && took > 100*time.Millisecond {
		s.Fatalf("a write took %v, which is not instant", took)
	}
	var cancelled, finished int
	for i := 1; i <= moments || i <= tries && (cancelled == 0 || finished == 0); i++ {
		current, next := s.get(b, jwks), lettered(i)
		ctx, cancel := context.WithCancel(s.ctx)
		timer := time.AfterFunc(took*time.Duration(1+i%moments)/(moments/2), cancel)
		err := b.Put(ctx, next, publish.IfVersion(current.Version))
		timer.Stop()
		cancel()
		switch {
		case err == nil:
			finished++
			s.expect(b, next)
			continue
		case errors.Is(err, context.Canceled):
			cancelled++
		case !errors.Is(err, publish.ErrPrecondition):
			s.Errorf("cancelled Put: %v", err)
		}
		s.checkLettered(b)
	}
	if finished == 0 || cancelled == 0 && !s.harness.Instant {
		s.Errorf("%d writes were cancelled and %d finished, want some of both", cancelled, finished)
	}
	s.replace(b, object(jwks, "afterwards"))
	s.expect(b, object(jwks, "afterwards"))
}

func oversizePut(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "old"), publish.IfAbsent())
	old := s.get(b, jwks)
	big := object(jwks, strings.Repeat("x", publish.MaxObjectSize+1))
	s.wantError("Put", b.Put(s.ctx, big, publish.IfVersion(old.Version)), publish.ErrTooLarge)
	s.expect(b, object(jwks, "old"))
}

func oversizeGet(s *scene) {
	b := s.open()
	s.store.Place(s, jwks, make([]byte, publish.MaxObjectSize+1))
	_, err := b.Get(s.ctx, jwks)
	s.wantError("Get", err, publish.ErrTooLarge)
	s.wantError("create over it", b.Put(s.ctx, object(jwks, "x"), publish.IfAbsent()), publish.ErrPrecondition)
}

func forbidden(s *scene) {
	b := s.open()
	s.put(b, object(jwks, "old"), publish.IfAbsent())
	old := s.get(b, jwks)
	intruder := s.keep(s.store.Forbidden(s))
	if s.harness.ForbidsNothing {
		s.put(intruder, object(jwks, "new"), publish.IfVersion(old.Version))
		s.expect(b, object(jwks, "new"))
		return
	}
	if _, err := intruder.Get(s.ctx, jwks); err != nil {
		s.wantOther("Get", err, "")
	}
	err := intruder.Put(s.ctx, object(jwks, "new"), publish.IfVersion(old.Version))
	s.wantOther("Put", err, s.store.ForbiddenCure)
	err = intruder.Put(s.ctx, object("other", "new"), publish.IfAbsent())
	s.wantOther("Put of a new object", err, s.store.ForbiddenCure)
	s.expect(b, object(jwks, "old"))
}

func missingStore(s *scene) {
	b := s.keep(s.store.Missing(s))
	_, err := b.Get(s.ctx, jwks)
	if s.harness.CreatesStore {
		s.wantError("Get", err, fs.ErrNotExist)
		s.wantError("Put over a version", b.Put(s.ctx, object(jwks, "x"), publish.IfVersion("12345")), publish.ErrPrecondition)
		s.put(b, object(jwks, "x"), publish.IfAbsent())
		s.expect(b, object(jwks, "x"))
		return
	}
	s.wantOther("Get", err, s.store.MissingCure)
	s.wantOther("Put", b.Put(s.ctx, object(jwks, "x"), publish.IfAbsent()), s.store.MissingCure)
	s.wantOther("Put over a version", b.Put(s.ctx, object(jwks, "x"), publish.IfVersion("12345")), s.store.MissingCure)
}

func closed(s *scene) {
	b, other := s.store.Open(s), s.open()
	s.put(b, object(jwks, "keys"), publish.IfAbsent())
	for range 2 {
		if err := b.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	}
	_, err := b.Get(s.ctx, jwks)
	s.wantError("Get", err, publish.ErrClosed)
	s.wantError("Put", b.Put(s.ctx, object(jwks, "x"), publish.IfAbsent()), publish.ErrClosed)
	s.expect(other, object(jwks, "keys"))
}
