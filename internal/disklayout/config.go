package disklayout

import (
	"slices"
	"strconv"
	"strings"
)

// config is a section of LVM's text: values by name, and sections within.
// Strings and numbers are both kept as text.
type config struct {
	sections map[string]*config
	lists    map[string][]string
}

func (c *config) text(name string) string {
	if l := c.lists[name]; len(l) == 1 {
		return l[0]
	}
	return ""
}

func (c *config) number(name string) int64 { return integer(c.text(name)) }

// integer is a number, or -1.
func integer(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// names are those of the sections within, in order.
func (c *config) names() []string {
	var list []string
	for n := range c.sections {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// parse reads LVM's text: name = value, name = [ values ], name { … }, and
// comments behind #.
func parse(text string) (*config, error) {
	p := &parser{rest: text}
	return p.section(0)
}

type parser struct{ rest string }

// token is the next word, string or sign; "" at the end. Strings keep their
// opening quote, so that they are told from signs.
func (p *parser) token() string {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\r\n\x00")
		if !strings.HasPrefix(p.rest, "#") {
			break
		}
		_, p.rest, _ = strings.Cut(p.rest, "\n")
	}
	if p.rest == "" {
		return ""
	}
	end := 1
	switch p.rest[0] {
	case '{', '}', '[', ']', '=', ',':
	case '"':
		for end < len(p.rest) && p.rest[end] != '"' {
			if p.rest[end] == '\\' {
				end++
			}
			end++
		}
		end = min(end, len(p.rest))
		s := p.rest[:end]
		p.rest = p.rest[min(end+1, len(p.rest)):]
		return s
	default:
		if end = strings.IndexAny(p.rest, " \t\r\n{}[]=,#\""); end < 0 {
			end = len(p.rest)
		}
	}
	s := p.rest[:end]
	p.rest = p.rest[end:]
	return s
}

func (p *parser) section(depth int) (*config, error) {
	const deepest = 8
	c := &config{map[string]*config{}, map[string][]string{}}
	for {
		name := p.token()
		switch {
		case name == "" && depth == 0, name == "}" && depth > 0:
			return c, nil
		case name == "" || depth > deepest || strings.ContainsAny(name[:1], "{}[]=,\""):
			return nil, corrupt("description with %q where a name should be", name)
		}
		switch sign := p.token(); sign {
		case "{":
			s, err := p.section(depth + 1)
			if err != nil {
				return nil, err
			}
			c.sections[name] = s
		case "=":
			v := p.token()
			if v != "[" {
				c.lists[name] = []string{strings.TrimPrefix(v, `"`)}
				continue
			}
			list := []string{}
			for v = p.token(); v != "]"; v = p.token() {
				if v == "" {
					return nil, corrupt("description with a list that doesn't end")
				}
				if v != "," {
					list = append(list, strings.TrimPrefix(v, `"`))
				}
			}
			c.lists[name] = list
		default:
			return nil, corrupt("description with %q behind %q", sign, name)
		}
	}
}
