package azbucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// fault is what becomes of one request.
type fault string

const (
	refusal  fault = "503"                    // without effect
	unsent   fault = "lost before the effect" // the connection fails
	lost     fault = "lost after the effect"  // as does its answer's
	halved   fault = "an answer that is cut"  // its body ends too early
	noBlocks fault = "400"                    // InvalidBlockList, without effect
	short    fault = "an answer that ends early"
	failure  fault = "500 after it had effect" // the service fails to say so
)

var allFaults = []fault{refusal, unsent, lost, halved, failure}

var errCut = errors.New("connection reset")

// wire is a client's transport on which the n-th request that matches goes wrong.
type wire struct {
	mu    sync.Mutex
	match func(*http.Request) bool
	fault fault
	n     int // 0: none
	calls int
}

// arm breaks one, and counts from here.
func (w *wire) arm(n int, f fault, match func(*http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n, w.fault, w.match, w.calls = n, f, match, 0
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

func (w *wire) Do(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	hit := false
	if w.match == nil || w.match(r) {
		w.calls++
		hit = w.calls == w.n
	}
	f := w.fault
	w.mu.Unlock()
	if !hit {
		return http.DefaultClient.Do(r)
	}
	switch f {
	case refusal:
		return answerOf(r, 503, "ServerBusy"), nil
	case unsent:
		return nil, errCut
	case noBlocks:
		return answerOf(r, 400, "InvalidBlockList"), nil
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	switch f {
	case lost:
		a.Body.Close()
		return nil, errCut
	case failure:
		a.Body.Close()
		return answerOf(r, 500, "InternalError"), nil
	}
	if r.Method == http.MethodHead {
		return a, nil // has no body
	}
	b, err := io.ReadAll(a.Body)
	a.Body.Close()
	if err != nil {
		return nil, err
	}
	if f == short {
		a.Body = io.NopCloser(bytes.NewReader(b[:len(b)/2]))
		a.Header.Del("Content-Length")
		return a, nil
	}
	a.Body = io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), brokenReader{}))
	return a, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func answerOf(r *http.Request, status int, code string) *http.Response {
	return &http.Response{StatusCode: status, Request: r, Body: io.NopCloser(strings.NewReader("")),
		Header: http.Header{"X-Ms-Error-Code": {code}, "Retry-After": {"0"}}}
}

// broken returns a bucket and the wire that it is on. tries 1: the client
// doesn't try again.
func broken(t testing.TB, service string, o Options, tries int32) (*Bucket, *wire) {
	w := &wire{}
	retries := tries - 1
	if retries == 0 {
		retries = -1
	}
	return New(services[service](t, func(o *container.ClientOptions) {
		o.Transport = w
		o.Retry = policy.RetryOptions{MaxRetries: retries, RetryDelay: 1, MaxRetryDelay: 1}
	}), o), w
}

func put(ctx context.Context, b *Bucket, name string, data []byte) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.WriteAt(data, 0); err != nil {
		return err
	}
	return w.Commit(ctx)
}

func get(t testing.TB, b *Bucket, name string, size int) []byte {
	t.Helper()
	p := make([]byte, size+1)
	n, err := b.ReadAt(t.Context(), name, p, 0)
	require.Equal(t, io.EOF, err)
	return p[:n]
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), 7})
	_, _ = rnd.Read(b)
	return b
}

// Each request goes wrong in each way, and whoever tries again gets what he
// wanted: never ErrExists for an object of his own, nor a conflict with himself.
func TestWhateverIsLostOnceIsFoundOutAbout(t *testing.T) {
	each(t, testWhateverIsLostOnceIsFoundOutAbout)
}

func testWhateverIsLostOnceIsFoundOutAbout(t *testing.T, service string) {
	const block = 4 << 10
	for _, f := range allFaults {
		t.Run(string(f), func(t *testing.T) {
			b, w := broken(t, service, Options{BlockSize: block}, 4)
			for n := 1; ; n++ {
				w.arm(n, f, nil)
				name := fmt.Sprintf("n%d", n)
				small, large := noise(1, 100), noise(2, 3*block+5)
				require.NoError(t, put(t.Context(), b, name+"/small", small))
				require.NoError(t, put(t.Context(), b, name+"/large", large))
				require.Equal(t, small, get(t, b, name+"/small", len(small)))
				require.Equal(t, large, get(t, b, name+"/large", len(large)))
				v, err := b.SwapHead(t.Context(), name+"/head", "", []byte("one"))
				require.NoError(t, err)
				v, err = b.SwapHead(t.Context(), name+"/head", v, []byte("two"))
				require.NoError(t, err)
				data, now, err := b.ReadHead(t.Context(), name+"/head")
				require.NoError(t, err)
				require.Equal(t, "two", string(data))
				require.Equal(t, v, now)
				var sizes []int64
				for o, err := range b.List(t.Context(), name+"/") {
					require.NoError(t, err)
					sizes = append(sizes, o.Size)
				}
				require.Equal(t, []int64{3, int64(len(large)), 100}, sizes)
				require.NoError(t, b.Delete(t.Context(), name+"/small"))
				if w.count() < n {
					require.Greater(t, n, 15)
					break
				}
			}
		})
	}
}

// Where nobody tries again, an error says so, and what is there is whole.
func TestWithoutASecondTryAnErrorIsTold(t *testing.T) { each(t, testWithoutASecondTryAnErrorIsTold) }

func testWithoutASecondTryAnErrorIsTold(t *testing.T, service string) {
	const block = 4 << 10
	large := noise(2, 3*block+5)
	for _, f := range []fault{refusal, unsent, lost, failure} {
		t.Run(string(f), func(t *testing.T) {
			b, w := broken(t, service, Options{BlockSize: block}, 1)
			for n := 1; n <= 5; n++ { // four blocks and their list
				w.arm(n, f, nil)
				name := fmt.Sprintf("large%d", n)
				err := put(t.Context(), b, name, large)
				require.Error(t, err)
				require.NotErrorIs(t, err, dr.ErrExists)
				w.arm(0, "", nil)
				err = put(t.Context(), b, name, large)
				if n == 5 && (f == lost || f == failure) {
					require.ErrorIs(t, err, dr.ErrExists)
				} else {
					require.NoError(t, err)
				}
				require.Equal(t, large, get(t, b, name, len(large)))
			}
			w.arm(1, f, nil)
			_, err := b.SwapHead(t.Context(), "head", "", []byte("one"))
			require.Error(t, err)
			require.NotErrorIs(t, err, dr.ErrConflict)
		})
	}
}

// The answer to a swap is lost, and before the second try another swaps: who
// was first can't be known, and is not told as a conflict, which would mean that
// nothing changed.
func TestASwapWhoseFateIsUnknownIsNoConflict(t *testing.T) {
	each(t, testASwapWhoseFateIsUnknownIsNoConflict)
}

func testASwapWhoseFateIsUnknownIsNoConflict(t *testing.T, service string) {
	b, w := broken(t, service, Options{}, 2)
	other := New(b.c, Options{})
	v, err := b.SwapHead(t.Context(), "head", "", []byte("one"))
	require.NoError(t, err)
	w.arm(1, lost, func(r *http.Request) bool {
		if r.Method == http.MethodPut && r.Header.Get("If-Match") == string(v) && w.calls == 1 {
			w.mu.Unlock() // the other's own requests come by here
			defer w.mu.Lock()
			_, now, err := other.ReadHead(context.Background(), "head")
			if err == nil {
				_, err = other.SwapHead(context.Background(), "head", now, []byte("three"))
			}
			if err != nil {
				t.Error(err)
			}
		}
		return r.Header.Get("If-Match") == string(v)
	})
	_, err = b.SwapHead(t.Context(), "head", v, []byte("two"))
	require.Error(t, err)
	require.NotErrorIs(t, err, dr.ErrConflict)
	data, _, err := b.ReadHead(t.Context(), "head")
	require.NoError(t, err)
	require.Equal(t, "three", string(data))
}

// Azure may look for the blocks before it looks at the condition.
func TestALostBlockListIsAnothersCommit(t *testing.T) { each(t, testALostBlockListIsAnothersCommit) }

func testALostBlockListIsAnothersCommit(t *testing.T, service string) {
	const block = 4 << 10
	b, w := broken(t, service, Options{BlockSize: block}, 1)
	commits := func(r *http.Request) bool { return r.URL.Query().Get("comp") == "blocklist" }
	w.arm(1, noBlocks, commits)
	err := put(t.Context(), b, "x", noise(1, 2*block))
	require.ErrorContains(t, err, "InvalidBlockList")
	require.NotErrorIs(t, err, dr.ErrExists, "there is none")
	w.arm(0, "", nil)
	require.NoError(t, put(t.Context(), b, "x", noise(2, 2*block)))
	w.arm(1, noBlocks, commits)
	require.ErrorIs(t, put(t.Context(), b, "x", noise(1, 2*block)), dr.ErrExists)
	require.Equal(t, noise(2, 2*block), get(t, b, "x", 2*block))
}

// A proxy that ends an answer early, and well-formed, has not read the object.
func TestAShortAnswerIsNoEnd(t *testing.T) { each(t, testAShortAnswerIsNoEnd) }

func testAShortAnswerIsNoEnd(t *testing.T, service string) {
	b, w := broken(t, service, Options{}, 1)
	require.NoError(t, put(t.Context(), b, "x", noise(1, 100)))
	w.arm(1, short, func(r *http.Request) bool { return r.Method == http.MethodGet })
	_, err := b.ReadAt(t.Context(), "x", make([]byte, 200), 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// The loser's blocks are discarded when the winner commits: what he sends later
// does not mix with it.
func TestTwoWritersOfAName(t *testing.T) {
	const block = 4 << 10
	one, two := noise(1, 3*block), noise(2, 3*block+9)
	b := on(t, Options{BlockSize: block})
	start := func(data []byte) vault.Writer {
		w, err := b.Create(t.Context(), "x")
		require.NoError(t, err)
		_, err = w.WriteAt(data[:2*block], 0)
		require.NoError(t, err)
		return w
	}
	w1, w2 := start(one), start(two)
	_, err := w1.WriteAt(one[2*block:], 2*block)
	require.NoError(t, err)
	require.NoError(t, w1.Commit(t.Context()))
	_, err = w2.WriteAt(two[2*block:], 2*block)
	require.NoError(t, err)
	require.ErrorIs(t, w2.Commit(t.Context()), dr.ErrExists)
	require.Equal(t, one, get(t, b, "x", len(one)))

	// And if the winner's is deleted meanwhile, the loser's is not there.
	require.NoError(t, b.Delete(t.Context(), "x"))
	w1, w2 = start(one), start(two)
	require.NoError(t, w1.Commit(t.Context()))
	require.NoError(t, b.Delete(t.Context(), "x"))
	if err := w2.Commit(t.Context()); err == nil {
		require.Equal(t, two[:2*block], get(t, b, "x", 2*block))
	} else {
		require.NotErrorIs(t, err, dr.ErrExists)
		_, err = b.ReadAt(t.Context(), "x", make([]byte, 1), 0)
		require.ErrorIs(t, err, dr.ErrNotFound)
	}
}

func TestGapsAndOverlapsAreRefused(t *testing.T) {
	const block = 4 << 10
	b := on(t, Options{BlockSize: block})
	for name, write := range map[string]func(w vault.Writer) error{
		"gap in a block":    func(w vault.Writer) error { _, err := w.WriteAt([]byte("x"), 1); return err },
		"gap before a part": func(w vault.Writer) error { _, err := w.WriteAt(make([]byte, block), 2*block); return err },
		"overlap": func(w vault.Writer) error {
			_, err := w.WriteAt(make([]byte, 3*block), 0)
			_, err2 := w.WriteAt([]byte("x"), 5)
			return errors.Join(err, err2)
		},
		"negative": func(w vault.Writer) error { _, err := w.WriteAt([]byte("x"), -1); return err },
		"too far":  func(w vault.Writer) error { _, err := w.WriteAt([]byte("x"), block*maxBlocks); return err },
	} {
		t.Run(name, func(t *testing.T) {
			w, err := b.Create(t.Context(), "x")
			require.NoError(t, err)
			if err := write(w); err == nil {
				require.ErrorIs(t, w.Commit(t.Context()), dr.ErrInvalid)
			} else {
				require.ErrorIs(t, err, dr.ErrInvalid)
				require.NoError(t, w.Abort())
			}
			_, err = b.ReadAt(t.Context(), "x", make([]byte, 1), 0)
			require.ErrorIs(t, err, dr.ErrNotFound)
		})
	}
}

func TestAnEmptyObject(t *testing.T) {
	b := on(t, Options{})
	require.NoError(t, put(t.Context(), b, "empty", nil))
	require.Empty(t, get(t, b, "empty", 0))
	n, err := b.ReadAt(t.Context(), "empty", nil, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = b.ReadAt(t.Context(), "absent", nil, 0)
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// A container that isn't there is no vault that is empty.
func TestAMissingContainerIsNotAnEmptyOne(t *testing.T) {
	s := azurite.Start(t)
	c, err := container.NewClientWithSharedKeyCredential(s.URL()+"/nobody-made-it", s.Credential(t), nil)
	require.NoError(t, err)
	b := New(c, Options{})
	_, err = b.ReadAt(t.Context(), "vault", make([]byte, 1), 0)
	require.ErrorContains(t, err, "ContainerNotFound")
	require.NotErrorIs(t, err, dr.ErrNotFound)
	_, _, err = b.ReadHead(t.Context(), "head/m")
	require.ErrorContains(t, err, "ContainerNotFound")
	require.ErrorContains(t, b.Delete(t.Context(), "x"), "ContainerNotFound")
	require.ErrorContains(t, put(t.Context(), b, "x", []byte("x")), "ContainerNotFound")
	for _, err := range b.List(t.Context(), "") {
		require.ErrorContains(t, err, "ContainerNotFound")
	}
	_, err = vault.Open(t.Context(), b, vault.Options{})
	require.ErrorContains(t, err, "ContainerNotFound")
}

// A URL may carry a signature, which must not get into a log.
func TestErrorsTellNoSecrets(t *testing.T) {
	c, err := container.NewClientWithNoCredential("http://127.0.0.1:1/account/c?sv=1&sig=geheim", &container.ClientOptions{ClientOptions: policy.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}}})
	require.NoError(t, err)
	b := New(c, Options{})
	check := func(err error) {
		t.Helper()
		require.Error(t, err)
		require.NotContains(t, err.Error(), "geheim")
		require.NotContains(t, err.Error(), "\n")
	}
	_, err = b.ReadAt(t.Context(), "x", make([]byte, 1), 0)
	check(err)
	_, _, err = b.ReadHead(t.Context(), "x")
	check(err)
	_, err = b.SwapHead(t.Context(), "x", "", []byte("x"))
	check(err)
	check(b.Delete(t.Context(), "x"))
	check(put(t.Context(), b, "x", []byte("x")))
	for _, err := range b.List(t.Context(), "") {
		check(err)
	}
	s := azurite.Start(t)
	c, err = container.NewClientWithNoCredential(s.URL()+"/ccc?sv=2020-10-02&se=2030-01-01&sr=c&sp=r&sig=geheim", nil)
	require.NoError(t, err)
	_, err = New(c, Options{}).ReadAt(t.Context(), "x", make([]byte, 1), 0)
	check(err)
	require.ErrorContains(t, err, "Azure answered 403")
}

func TestNamesThatEndWithADot(t *testing.T) {
	b := on(t, Options{})
	names := []string{"a./b", "a.", "a.b", "c/x.", "c/x.a", "c/x-", "d../e.."}
	for _, name := range names {
		require.NoError(t, put(t.Context(), b, name, []byte(name)))
		require.Equal(t, name, string(get(t, b, name, len(name))))
	}
	list := func(prefix string) (all []string) {
		for o, err := range b.List(t.Context(), prefix) {
			require.NoError(t, err)
			all = append(all, o.Name)
		}
		return all
	}
	require.ElementsMatch(t, names, list(""))
	require.Equal(t, []string{"c/x-", "c/x.", "c/x.a"}, list("c/"))
	require.ElementsMatch(t, []string{"c/x.", "c/x.a"}, list("c/x."))
	require.Equal(t, []string{"a./b"}, list("a./"))
	require.Equal(t, []string{"d../e.."}, list("d../"))
	pages := b.c.NewListBlobsFlatPager(nil)
	for pages.More() {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		for _, item := range page.Segment.BlobItems {
			require.NotContains(t, *item.Name+"/", "./")
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"seg/00/a.0", "a./b.", "a!/b", "..", "a.!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := blobName(s); err == nil {
			require.NotContains(t, b+"/", "./")
			name, ok := objectName(b)
			require.True(t, ok)
			require.Equal(t, s, name)
		}
		if name, ok := objectName(s); ok {
			b, err := blobName(name)
			require.NoError(t, err)
			require.Equal(t, s, b)
		}
	})
}
