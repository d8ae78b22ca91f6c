package hypervtest

import (
	"regexp"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// pathOf writes an object's path as WMI does, with server and namespace, keys
// in the order of their names and backslashes and quotes in values escaped.
func pathOf(server string, c *class, p host.Props) host.Ref {
	var b strings.Builder
	b.WriteString(`\\` + server + `\` + host.Namespace + `:` + c.name)
	for i, k := range c.keys() {
		b.WriteByte(".,"[min(i, 1)])
		v, _ := p[k].(string)
		v = strings.ReplaceAll(v, `\`, `\\`)
		v = strings.ReplaceAll(v, `"`, `\"`)
		b.WriteString(k + `="` + v + `"`)
	}
	return host.Ref(b.String())
}

var (
	pathForm = regexp.MustCompile(`(?is)^(?:(?:\\\\([^\\]+)\\)?(root\\[^:]+):)?([a-z_]\w*)(?:\.(.+))?$`)
	pathKey  = regexp.MustCompile(`^(\w+)=(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')(?:,|$)`)
)

// parsePath takes a path apart: absolute ones and relative ones, with double
// or single quotes. keys is nil for the path of a class.
func parsePath(r host.Ref) (server string, c *class, keys host.Props, err error) {
	bad := func(code uint32) error { return wmiError("path", code, string(r)) }
	m := pathForm.FindStringSubmatch(string(r))
	if m == nil {
		return "", nil, nil, bad(wbemInvalidObjectPath)
	}
	if m[2] != "" && !strings.EqualFold(m[2], host.Namespace) {
		return "", nil, nil, bad(wbemInvalidNamespace)
	}
	if c = classOf(m[3]); c == nil {
		return "", nil, nil, bad(wbemInvalidClass)
	}
	rest := m[4]
	if rest == "" {
		return m[1], c, nil, nil
	}
	keys = host.Props{}
	for rest != "" {
		k := pathKey.FindStringSubmatch(rest)
		if k == nil {
			return "", nil, nil, bad(wbemInvalidObjectPath)
		}
		keys[k[1]] = wqlUnescape(k[2] + k[3])
		rest = rest[len(k[0]):]
	}
	return m[1], c, keys, nil
}

// same tells whether an object is the one that keys name.
func same(c *class, keys, p host.Props) bool {
	want := c.keys()
	if len(keys) != len(want) {
		return false
	}
	for _, k := range want {
		v, ok := keys[k].(string)
		have, _ := p[k].(string)
		if !ok || !strings.EqualFold(v, have) {
			return false
		}
	}
	return true
}
