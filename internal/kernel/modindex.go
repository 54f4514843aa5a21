package kernel

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The index of a module disk is made for a program that runs once a request: the order of loading is worked out here, not in the
// guest. Names and aliases are spelled with '_' for '-', lines are sorted by bytes, so that one is found by a binary search.
//
//	modules.load     NAME PATH...     what to load for NAME, in this order, NAME itself among it; a path that begins with '?' may fail
//	modules.alias    ALIAS NAME       what the kernel asks for by another name
//	modules.pattern  PATTERN NAME     the same with wildcards (fnmatch(3)), in the order of their modules
//	modules.builtin  NAME             what the kernel has without a module
//	modules.devname  MODULE NODE TYPE MAJOR:MINOR   device nodes whose opening loads a module, as depmod writes it
const (
	indexLoad    = "modules.load"
	indexAlias   = "modules.alias"
	indexPattern = "modules.pattern"
	indexBuiltin = "modules.builtin"
	indexDevname = "modules.devname"
)

// moduleIndex is what is known of all modules of a kernel.
type moduleIndex struct {
	infos map[string]moduleInfo
	// paths are relative to the disk's root.
	paths   map[string]string
	builtin map[string]bool
	// providers are the modules behind an alias that has no wildcards, sorted.
	providers map[string][]string
}

func newModuleIndex(builtin map[string]bool) *moduleIndex {
	return &moduleIndex{infos: map[string]moduleInfo{}, paths: map[string]string{}, builtin: builtin, providers: map[string][]string{}}
}

func (x *moduleIndex) add(name, path string, info moduleInfo) {
	x.infos[name], x.paths[name] = info, path
	for _, a := range info.aliases {
		if a = kernelName(a); !isPattern(a) && !slices.Contains(x.providers[a], name) {
			x.providers[a] = append(x.providers[a], name)
		}
	}
}

func isPattern(alias string) bool { return strings.ContainsAny(alias, "*?[") }

// usable says whether a word can stand in a line of the index.
func usable(word string) bool { return word != "" && !strings.ContainsAny(word, " \t\n\x00") }

// files are the index's files by name.
func (x *moduleIndex) files() map[string][]byte {
	alias, pattern := x.aliasLines()
	return map[string][]byte{
		indexLoad:    sortedLines(x.loadLines()),
		indexAlias:   sortedLines(alias),
		indexPattern: []byte(strings.Join(pattern, "")),
		indexBuiltin: sortedLines(withNewlines(slices.Collect(maps.Keys(x.builtin)))),
		indexDevname: sortedLines(x.devnameLines()),
	}
}

func sortedLines(lines []string) []byte {
	slices.Sort(lines)
	var b bytes.Buffer
	for _, l := range slices.Compact(lines) {
		b.WriteString(l)
	}
	return b.Bytes()
}

func withNewlines(words []string) []string {
	for i := range words {
		words[i] += "\n"
	}
	return words
}

// loadLines has a line for each module that can be loaded. One that needs what there is not, or in the end itself, has none.
func (x *moduleIndex) loadLines() []string {
	var lines []string
	for name := range x.infos {
		o := loadOrder{x: x, seen: map[string]bool{}}
		o.add(name, false, nil)
		if !o.broken {
			lines = append(lines, name+" "+strings.Join(o.paths, " ")+"\n")
		}
	}
	return lines
}

// maxLoadOrder bounds how many modules one may bring along; nothing of Linux needs more than 50.
const maxLoadOrder = 500

// loadOrder collects what is loaded for one module.
type loadOrder struct {
	x      *moduleIndex
	seen   map[string]bool
	paths  []string
	broken bool
}

// add appends name after what it needs. What a soft dependency wants may be missing or fail, and so may what that needs.
func (o *loadOrder) add(name string, optional bool, path []string) {
	if o.seen[name] || o.x.builtin[name] && o.x.paths[name] == "" {
		return
	}
	if o.x.paths[name] == "" || slices.Contains(path, name) || len(o.paths) > maxLoadOrder {
		o.broken = o.broken || !optional
		return
	}
	path = append(slices.Clone(path), name)
	info := o.x.infos[name]
	o.addSoft(info.soft, path)
	for _, d := range info.depends {
		o.add(d, optional, path)
	}
	o.seen[name] = true
	mark := ""
	if optional {
		mark = "?"
	}
	o.paths = append(o.paths, mark+o.x.paths[name])
	o.addSoft(info.softPost, path)
}

func (o *loadOrder) addSoft(names, path []string) {
	for _, d := range names {
		for _, p := range o.x.lookup(d) {
			if !slices.Contains(path, p) { // otherwise it wants what wants it
				o.add(p, true, path)
			}
		}
	}
}

// lookup is what a name stands for: a module, or all those that have it as an alias.
func (x *moduleIndex) lookup(name string) []string {
	if x.paths[name] != "" || x.builtin[name] {
		return []string{name}
	}
	return slices.Sorted(slices.Values(x.providers[name]))
}

func (x *moduleIndex) aliasLines() (alias, pattern []string) {
	for _, name := range slices.Sorted(maps.Keys(x.infos)) {
		for _, a := range x.infos[name].aliases {
			if !usable(a) {
				continue
			}
			if line := kernelName(a) + " " + name + "\n"; isPattern(a) {
				pattern = append(pattern, line)
			} else {
				alias = append(alias, line)
			}
		}
	}
	return alias, pattern
}

// devnameLines pairs each alias devname:NODE with the number that the same module's alias char-major-N-M or block-major-N-M has.
func (x *moduleIndex) devnameLines() []string {
	var lines []string
	for name, info := range x.infos {
		var node, number string
		for _, a := range info.aliases {
			if n, ok := strings.CutPrefix(a, "devname:"); ok && usable(n) {
				node = n
			}
			for prefix, kind := range map[string]string{"char-major-": "c", "block-major-": "b"} {
				rest, ok := strings.CutPrefix(a, prefix)
				major, minor, found := strings.Cut(rest, "-")
				if ok && found && isNumber(major) && isNumber(minor) {
					number = kind + major + ":" + minor
				}
			}
		}
		if node != "" && number != "" {
			lines = append(lines, name+" "+node+" "+number+"\n")
		}
	}
	return lines
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 20)
	return err == nil
}
