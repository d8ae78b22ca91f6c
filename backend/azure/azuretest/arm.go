package azuretest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// request is a call to the Resource Manager, taken apart.
type request struct {
	*http.Request
	names []string // what stands for the pattern's stars, as it was written
	id    string   // the path as it was written, without doubled slashes
	query url.Values
	body  []byte
}

// name returns the last name in the path.
func (q *request) name() string { return q.names[len(q.names)-1] }

// group returns the name of the resource group, which all patterns of
// resources begin with.
func (q *request) group() string { return q.names[0] }

// reply is an answer of the Resource Manager.
type reply struct {
	status int
	body   any // encoded as JSON; nil: none
	op     *operation
}

// armError is an error as the Resource Manager tells it.
type armError struct {
	status        int
	code, message string
	retryAfter    string // seconds
}

func (e *armError) Error() string { return e.code + ": " + e.message }

func refuse(status int, code, format string, a ...any) error {
	return &armError{status: status, code: code, message: fmt.Sprintf(format, a...)}
}

func bad(format string, a ...any) error {
	return refuse(http.StatusBadRequest, "BadRequest", format, a...)
}

func notAllowed(format string, a ...any) error {
	return refuse(http.StatusConflict, "OperationNotAllowed", format, a...)
}

// route is a method and a path whose stars stand for one name each, or, at the
// beginning, for a whole scope. Handlers are called with mu held.
type route struct {
	method  string
	pattern []string
	serve   func(*Cloud, *request) (reply, error)
}

// Patterns begin with one of these.
const (
	inSubscription = "/subscriptions/*"
	inGroup        = inSubscription + "/resourceGroups/*"
	compute        = inGroup + "/providers/Microsoft.Compute/"
	network        = inGroup + "/providers/Microsoft.Network/"
)

func handle(method, pattern string, serve func(*Cloud, *request) (reply, error)) route {
	return route{method, strings.Split(strings.Trim(strings.ToLower(pattern), "/"), "/"), serve}
}

func allRoutes() []route {
	return slices.Concat(operationRoutes(), lockRoutes(), tagRoutes(), groupRoutes(),
		usageRoutes(),
		diskRoutes(), snapshotRoutes(), restorePointRoutes(), availabilitySetRoutes(), vmRoutes(),
		networkRoutes(), interfaceRoutes(), publicIPRoutes(), securityRoutes(), flowRoutes())
}

// match returns the names that stand for the stars, without the subscription.
func (r route) match(path []string) ([]string, bool) {
	pattern := r.pattern
	var names []string
	if pattern[0] == "**" { // the scope, as one name
		n := len(path) - (len(pattern) - 1)
		if n < 0 {
			return nil, false
		}
		names = append(names, "/"+strings.Join(path[:n], "/"))
		path, pattern = path[n:], pattern[1:]
	}
	if len(path) != len(pattern) {
		return nil, false
	}
	for i, p := range pattern {
		switch {
		case p == "*":
			names = append(names, path[i])
		case !alike(p, path[i]):
			return nil, false
		}
	}
	if r.pattern[0] == "subscriptions" {
		names = names[1:]
	}
	return names, true
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q := &request{Request: r, query: r.URL.Query(), body: body}
	if strings.HasPrefix(r.URL.Path, consolePath) {
		c.serveConsole(w, r)
		return
	}
	c.mu.Lock()
	c.poll(r.URL.Path) // may give up the lock: nothing of this request is known before
	c.touched = nil
	answer, err := c.dispatch(q)
	var encoded []byte
	if err == nil && answer.body != nil {
		encoded, err = json.Marshal(answer.body) // with the lock: it may be changed afterwards
	}
	touched := c.touched
	for _, op := range touched {
		if op != answer.op {
			c.tick(op)
		}
	}
	c.mu.Unlock()
	c.write(w, answer, encoded, err)
}

func (c *Cloud) dispatch(q *request) (reply, error) {
	if !strings.HasPrefix(q.Header.Get("Authorization"), "Bearer ") {
		return reply{}, refuse(http.StatusUnauthorized, "AuthenticationFailed", "no bearer token")
	}
	if q.query.Get("api-version") == "" {
		return reply{}, refuse(http.StatusBadRequest, "MissingApiVersionParameter", "the api-version query parameter is required")
	}
	path := slices.DeleteFunc(strings.Split(q.URL.Path, "/"), func(s string) bool { return s == "" })
	q.id = "/" + strings.Join(path, "/")
	if len(path) >= 2 && alike(path[0], "subscriptions") && !alike(path[1], subscription) {
		return reply{}, refuse(http.StatusNotFound, "SubscriptionNotFound", "subscription %s was not found", path[1])
	}
	known := false
	for _, r := range c.routes {
		names, ok := r.match(path)
		if !ok {
			continue
		}
		known = true
		if r.method != q.Method {
			continue
		}
		q.names = names
		if err := c.locked(q); err != nil {
			return reply{}, err
		}
		if answer, joined := c.join(q); joined {
			return answer, nil
		}
		answer, err := r.serve(c, q)
		if answer.op != nil && answer.op.status == 0 {
			answer.op.status = answer.status
		}
		return answer, err
	}
	if known {
		return reply{}, refuse(http.StatusMethodNotAllowed, "HttpMethodNotAllowed", "%s is not allowed on %s", q.Method, q.id)
	}
	return reply{}, refuse(http.StatusNotFound, "InvalidResourceType", "nothing is simulated at %s", q.id)
}

func (c *Cloud) write(w http.ResponseWriter, answer reply, encoded []byte, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if err != nil {
		e, ok := err.(*armError)
		if !ok {
			e = &armError{status: http.StatusInternalServerError, code: "InternalServerError", message: err.Error()}
		}
		h.Set("x-ms-error-code", e.code)
		if e.retryAfter != "" {
			h.Set("Retry-After", e.retryAfter)
		}
		w.WriteHeader(e.status)
		encoded, _ = json.Marshal(map[string]any{"error": map[string]string{"code": e.code, "message": e.message}})
		_, _ = w.Write(encoded)
		return
	}
	if op := answer.op; op != nil {
		h.Set("Azure-AsyncOperation", c.pollURL("operations", op))
		h.Set("Location", c.pollURL("operationResults", op))
		h.Set("Retry-After-Ms", "2")
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(encoded)
}

// decode reads the body into a model of the SDK, or refuses it.
func decode[T any](q *request) (T, error) {
	var m T
	if len(q.body) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(q.body, &m); err != nil {
		return m, refuse(http.StatusBadRequest, "InvalidRequestContent", "the body can't be read: %v", err)
	}
	return m, nil
}

func ok(body any) (reply, error) { return reply{status: http.StatusOK, body: body}, nil }

// gone is the answer to deleting what is not there.
func gone() (reply, error) { return reply{status: http.StatusNoContent}, nil }

// val is for the models, in which everything is optional.
func val[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
