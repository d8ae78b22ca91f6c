package hypervtest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// wql is a parsed query: SELECT * or properties FROM class, and conditions that
// are joined by AND and OR, where AND binds first. That is all that is
// understood of WQL.
type wql struct {
	class *class
	props []string        // nil: all
	where [][]wqlCompared // OR of ANDs; nil: everything
}

type wqlCompared struct {
	prop, op string
	value    any // string, bool, int64, nil
	like     *regexp.Regexp
}

// Words, numbers, strings in either quote with backslash escapes, operators.
var wqlToken = regexp.MustCompile(`\s*([A-Za-z_][A-Za-z0-9_]*|-?[0-9]+|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|<=|>=|<>|!=|[=<>*,])`)

func parseWQL(q string) (*wql, error) {
	bad := func(why string) error {
		return &host.Error{Op: "query", Code: wbemInvalidQuery, Detail: fmt.Sprintf("%s: %s", why, q)}
	}
	var tokens []string
	for rest := strings.TrimSpace(q); rest != ""; rest = strings.TrimSpace(rest) {
		m := wqlToken.FindStringSubmatchIndex(rest)
		if m == nil || m[0] != 0 {
			return nil, bad("not WQL")
		}
		tokens = append(tokens, rest[m[2]:m[3]])
		rest = rest[m[1]:]
	}
	next := func() string {
		if len(tokens) == 0 {
			return ""
		}
		t := tokens[0]
		tokens = tokens[1:]
		return t
	}
	word := func(w string) bool { return strings.EqualFold(next(), w) }

	if !word("SELECT") {
		return nil, bad("no SELECT")
	}
	var props []string
	for {
		t := next()
		if t == "" {
			return nil, bad("no FROM")
		}
		if strings.EqualFold(t, "FROM") {
			break
		}
		if t != "*" && t != "," {
			props = append(props, t)
		}
	}
	name := next()
	out := &wql{class: classOf(name), props: props}
	if out.class == nil {
		return nil, &host.Error{Op: "query", Code: wbemInvalidClass, Detail: name}
	}
	for _, p := range props {
		if _, _, ok := out.class.prop(p); !ok {
			return nil, bad("no property " + p)
		}
	}
	if len(tokens) == 0 {
		return out, nil
	}
	if !word("WHERE") {
		return nil, bad("no WHERE")
	}
	out.where = [][]wqlCompared{nil}
	for {
		prop, typ, ok := out.class.prop(next())
		if !ok {
			return nil, bad("unknown property")
		}
		if strings.HasSuffix(typ, "[]") {
			return nil, bad("arrays can't be compared")
		}
		c := wqlCompared{prop: prop, op: strings.ToUpper(next())}
		if c.op == "IS" {
			c.op = "="
		}
		lit := next()
		switch {
		case lit == "":
			return nil, bad("no value")
		case lit[0] == '\'' || lit[0] == '"':
			c.value = wqlUnescape(lit[1 : len(lit)-1])
		case strings.EqualFold(lit, "TRUE"), strings.EqualFold(lit, "FALSE"):
			c.value = strings.EqualFold(lit, "TRUE")
		case strings.EqualFold(lit, "NULL"):
		default:
			n, err := strconv.ParseInt(lit, 10, 64)
			if err != nil {
				return nil, bad("not a value: " + lit)
			}
			c.value = n
		}
		switch c.op {
		case "=", "<>", "!=", "<", ">", "<=", ">=":
		case "LIKE":
			pattern, ok := c.value.(string)
			if !ok {
				return nil, bad("LIKE wants a string")
			}
			c.like = like(pattern)
		default:
			return nil, bad("unknown operator " + c.op)
		}
		last := len(out.where) - 1
		out.where[last] = append(out.where[last], c)
		switch t := next(); {
		case t == "":
			return out, nil
		case strings.EqualFold(t, "AND"):
		case strings.EqualFold(t, "OR"):
			out.where = append(out.where, nil)
		default:
			return nil, bad("unexpected " + t)
		}
	}
}

// wqlUnescape takes the backslashes away that quote backslashes and quotes.
func wqlUnescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (q *wql) matches(p host.Props) bool {
	if q.where == nil {
		return true
	}
	for _, all := range q.where {
		ok := true
		for _, c := range all {
			ok = ok && c.holds(p[c.prop])
		}
		if ok {
			return true
		}
	}
	return false
}

// mayMatch says no only where the strings alone tell so.
func (q *wql) mayMatch(p host.Props) bool {
	if len(q.where) != 1 {
		return true
	}
	for _, c := range q.where[0] {
		if s, ok := p[c.prop].(string); ok && (c.op == "=" || c.op == "LIKE") && !c.holds(s) {
			return false
		}
	}
	return true
}

// holds compares as WMI does: strings without regard to case, numbers as
// numbers also where they come as strings; null equals null only.
func (c wqlCompared) holds(v any) bool {
	if v == nil || c.value == nil {
		same := v == nil && c.value == nil
		return c.op == "=" && same || (c.op == "<>" || c.op == "!=") && !same
	}
	if c.op == "LIKE" {
		s, ok := v.(string)
		return ok && c.like.MatchString(s)
	}
	var order int
	switch want := c.value.(type) {
	case bool:
		b, ok := v.(bool)
		if !ok {
			return false
		}
		if b != want {
			order = 1
		}
	case int64:
		n, ok := host.Props{"v": v}.Int("v")
		if !ok {
			return false
		}
		order = int(max(-1, min(1, n-want)))
	case string:
		s := fmt.Sprint(v)
		order = strings.Compare(strings.ToLower(s), strings.ToLower(want))
	}
	switch c.op {
	case "=":
		return order == 0
	case "<>", "!=":
		return order != 0
	case "<":
		return order < 0
	case ">":
		return order > 0
	case "<=":
		return order <= 0
	}
	return order >= 0
}

// like makes a regular expression of a LIKE pattern: %, _ and [sets].
func like(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("(?is)^")
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '%':
			b.WriteString(".*")
		case '_':
			b.WriteString(".")
		case '[':
			if end := strings.IndexByte(pattern[i:], ']'); end > 0 {
				b.WriteString(pattern[i : i+end+1])
				i += end
				continue
			}
			b.WriteString(`\[`)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	b.WriteString("$")
	re, err := regexp.Compile(b.String())
	if err != nil {
		return regexp.MustCompile("$.") // a set that isn't one fits nothing
	}
	return re
}
