package bucket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Client is a bucket that Handler serves elsewhere: a vault.Bucket and
// vault.Locker. Its locks last until they are closed or the connection of its
// session is lost. It is safe for concurrent use. Make one with Dial.
type Client struct {
	at   string
	http *http.Client

	mu      sync.Mutex
	session string // "" if there is none
	end     context.CancelFunc
}

// Dial returns the bucket at an address such as "https://bonn:7000/points". It
// doesn't connect yet. With a nil client http.DefaultClient is used; its
// Timeout must be zero, as a session stays open.
func Dial(at string, c *http.Client) *Client {
	if c == nil {
		c = http.DefaultClient
	}
	return &Client{at: strings.TrimSuffix(at, "/"), http: c}
}

// Close ends the session, and so gives all locks back.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		c.end()
	}
	c.session, c.end = "", nil
	return nil
}

// do asks and returns the answer, whose body the caller closes.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.at+path+"?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
	said := strings.TrimSpace(string(text))
	for _, s := range statuses {
		if s.status == res.StatusCode {
			return nil, &dr.Error{Op: "bucket", Side: dr.StoreSide, Off: -1, Err: fmt.Errorf("%w (%s)", s.err, said)}
		}
	}
	return nil, fmt.Errorf("bucket at %s: %s: %s", c.at, res.Status, said)
}

// ask is do that returns the whole body, of at most most bytes.
func (c *Client) ask(ctx context.Context, method, path string, q url.Values, body []byte, most int64) ([]byte, http.Header, error) {
	res, err := c.do(ctx, method, path, q, body)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("bucket at %s: an answer of more than %d bytes", c.at, most)
	}
	return data, res.Header, err
}

func named(name string) url.Values { return url.Values{"name": {name}} }

// Create implements vault.Bucket. The object travels at its commit.
func (c *Client) Create(ctx context.Context, name string) (vault.Writer, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return &writer{put: func(ctx context.Context, data []byte) error {
		_, _, err := c.ask(ctx, http.MethodPut, "/object", named(name), data, 0)
		return err
	}}, ctx.Err()
}

// ReadAt implements vault.Bucket.
func (c *Client) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	q := named(name)
	q.Set("off", strconv.FormatInt(off, 10))
	q.Set("len", strconv.Itoa(len(p)))
	res, err := c.do(ctx, http.MethodGet, "/object", q, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	n, err := io.ReadFull(res.Body, p)
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1)) // so that the connection is used again
		return n, nil
	}
	if res.Header.Get(headEOF) == "" || res.ContentLength != int64(n) {
		return n, fmt.Errorf("object %s was cut off: %w", name, io.ErrUnexpectedEOF)
	}
	return n, io.EOF
}

// List implements vault.Bucket.
func (c *Client) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		res, err := c.do(ctx, http.MethodGet, "/list", url.Values{"prefix": {prefix}}, nil)
		if err != nil {
			yield(vault.Object{}, err)
			return
		}
		defer res.Body.Close()
		for d := json.NewDecoder(res.Body); ; {
			var o vault.Object
			if err := d.Decode(&o); err != nil {
				if !errors.Is(err, io.EOF) {
					yield(vault.Object{}, err)
				}
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// Delete implements vault.Bucket.
func (c *Client) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	_, _, err := c.ask(ctx, http.MethodDelete, "/object", named(name), nil, 0)
	return err
}

// ReadHead implements vault.Bucket.
func (c *Client) ReadHead(ctx context.Context, name string) ([]byte, vault.Version, error) {
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	data, h, err := c.ask(ctx, http.MethodGet, "/head", named(name), nil, largest)
	if err != nil {
		return nil, "", err
	}
	return data, vault.Version(h.Get(headVersion)), nil
}

// SwapHead implements vault.Bucket.
func (c *Client) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	q := named(name)
	q.Set("old", string(old))
	_, h, err := c.ask(ctx, http.MethodPut, "/head", q, data, 0)
	if err != nil {
		return "", err
	}
	return vault.Version(h.Get(headVersion)), nil
}

// Lock implements vault.Locker.
func (c *Client) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	session, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	q := named(name)
	q.Set("session", session)
	q.Set("exclusive", strconv.FormatBool(exclusive))
	id, _, err := c.ask(ctx, http.MethodPost, "/lock", q, nil, 1024)
	if errors.Is(err, dr.ErrFenced) { // it has ended and nobody has told yet
		c.ended(session)
	}
	if err != nil {
		return nil, err
	}
	return closer(sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, _, err := c.ask(ctx, http.MethodDelete, "/lock", url.Values{"session": {session}, "id": {string(id)}}, nil, 0)
		return err
	})), nil
}

// open returns the session, and begins one if there is none.
func (c *Client) open(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != "" {
		return c.session, nil
	}
	lasting, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end) // until it is open
	res, err := c.do(lasting, http.MethodGet, "/session", nil, nil)
	if err != nil {
		end()
		return "", err
	}
	lines := bufio.NewReader(io.LimitReader(res.Body, 1<<40))
	id, err := lines.ReadString('\n')
	if !stop() || err != nil {
		end()
		_ = res.Body.Close()
		return "", errors.Join(err, ctx.Err())
	}
	c.session, c.end = strings.TrimSpace(id), end
	go c.hear(c.session, res.Body, end)
	return c.session, nil
}

// hear waits until the session ends: its server is silent, or gone.
func (c *Client) hear(session string, body io.ReadCloser, end context.CancelFunc) {
	silence := time.AfterFunc(3*keepAlive, end)
	defer silence.Stop()
	for p := make([]byte, 16); ; silence.Reset(3 * keepAlive) {
		if _, err := body.Read(p); err != nil {
			break
		}
	}
	end()
	_ = body.Close()
	c.ended(session)
}

func (c *Client) ended(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == session {
		c.end()
		c.session, c.end = "", nil
	}
}
