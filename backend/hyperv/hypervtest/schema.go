package hypervtest

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

//go:embed schema.txt
var schemaText string

// class is a WMI class: what instances have and what can be called.
type class struct {
	name    string
	parents []string
	props   map[string]string // name → CIM type, "[]" behind it for arrays
	methods map[string]*method
}

type method struct {
	name    string
	in, out map[string]string // name → CIM type
}

// schema returns the classes by lower-case name: WMI's names ignore case.
var schema = sync.OnceValue(func() map[string]*class {
	classes := map[string]*class{}
	var c *class
	for line := range strings.Lines(schemaText) {
		line = strings.TrimRight(line, "\n")
		words := strings.Fields(line)
		switch {
		case line == "" || line[0] == '#':
		case words[0] == "class":
			c = &class{name: words[1], props: map[string]string{}, methods: map[string]*method{}}
			if len(words) > 2 {
				p := classes[strings.ToLower(words[2])]
				c.parents = append([]string{p.name}, p.parents...)
				for k, v := range p.props {
					c.props[k] = v
				}
				for k, v := range p.methods {
					c.methods[k] = v
				}
			}
			classes[strings.ToLower(c.name)] = c
		case words[0] == "method":
			name, params, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "method")), ":")
			m := &method{name: name, in: map[string]string{}, out: map[string]string{}}
			for p := range strings.SplitSeq(params, ",") {
				f := strings.Fields(p)
				if len(f) != 3 {
					panic(fmt.Sprintf("hypervtest: schema.txt: %q", line))
				}
				if f[0] == "in" {
					m.in[f[1]] = f[2]
				} else {
					m.out[f[1]] = f[2]
				}
			}
			c.methods[name] = m
		default:
			for p := range strings.SplitSeq(line, ";") {
				f := strings.Fields(p)
				if len(f) == 0 {
					continue
				}
				c.props[f[0]] = f[1]
			}
		}
	}
	return classes
})

func classOf(name string) *class { return schema()[strings.ToLower(name)] }

func (c *class) is(name string) bool {
	if strings.EqualFold(c.name, name) {
		return true
	}
	for _, p := range c.parents {
		if strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// prop finds a property whatever the case of its name.
func (c *class) prop(name string) (proper, typ string, ok bool) {
	if t, ok := c.props[name]; ok {
		return name, t, true
	}
	for k, t := range c.props {
		if strings.EqualFold(k, name) {
			return k, t, true
		}
	}
	return "", "", false
}

// keys of the classes that aren't identified by InstanceID.
func (c *class) keys() []string {
	switch {
	case c.is("CIM_System"):
		return []string{"CreationClassName", "Name"}
	case c.is("CIM_Service"):
		return []string{"CreationClassName", "Name", "SystemCreationClassName", "SystemName"}
	case c.is("CIM_LogicalDevice"):
		return []string{"CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName"}
	}
	return []string{"InstanceID"}
}
