package tree

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// maxLinks is how many symbolic links one path may go through, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// Tree is an image's tree while layers are put on it.
type Tree struct {
	root *erofs.Inode
	// files are all regular files that ever came in with content, to find those that are no longer in the tree.
	files []*erofs.Inode
	gone  bool // something was taken out of the tree
}

// New returns an empty tree: a root directory of mode 0755, owned by 0:0.
func New() *Tree {
	return &Tree{root: &erofs.Inode{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Inode{}}}
}

// Root returns the root of the tree.
func (t *Tree) Root() *erofs.Inode { return t.root }

// Apply puts a layer on top of the tree. Whiteouts hide only what the layers below have, wherever they stand in the layer.
// An entry takes the place of what has its path, except that a directory keeps its content. A path goes through symbolic
// links as it would with the image as root directory. After an error the tree is worth nothing.
func (t *Tree) Apply(ctx context.Context, l *Layer) error {
	for _, e := range l.entries {
		if e.whiteout || e.opaque {
			if err := t.hide(e); err != nil {
				return fmt.Errorf("whiteout of %q: %w", join(e.path), err)
			}
		}
	}
	for _, e := range l.entries {
		if e.whiteout || e.opaque {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.add(e); err != nil {
			return fmt.Errorf("layer entry %q: %w", join(e.path), err)
		}
	}
	return nil
}

// Unused returns the files whose content is in no place of the tree any more.
func (t *Tree) Unused() []*erofs.Inode {
	if !t.gone {
		return nil
	}
	used := map[*erofs.Inode]bool{}
	var walk func(n *erofs.Inode)
	walk = func(n *erofs.Inode) {
		for _, c := range n.Children {
			if c.IsRegular() {
				used[c] = true
			}
			walk(c)
		}
	}
	walk(t.root)
	var unused []*erofs.Inode
	for _, n := range t.files {
		if !used[n] {
			unused = append(unused, n)
		}
	}
	return unused
}

func (t *Tree) hide(e entry) error {
	if e.opaque {
		dir, err := t.dir(e.path, false)
		if err != nil || dir == nil {
			return err
		}
		t.gone = t.gone || len(dir.Children) > 0
		clear(dir.Children)
		return nil
	}
	dir, err := t.parent(e.path, false)
	if err != nil || dir == nil {
		return err
	}
	name := e.path[len(e.path)-1]
	t.gone = t.gone || dir.Children[name] != nil
	delete(dir.Children, name)
	return nil
}

func (t *Tree) add(e entry) error {
	if len(e.path) == 0 {
		if e.isLink || !e.node.IsDir() {
			return errors.New("the root of the image must be a directory")
		}
		e.node.Children = t.root.Children
		*t.root = *e.node
		return nil
	}
	dir, err := t.parent(e.path, true)
	if err != nil {
		return err
	}
	name := e.path[len(e.path)-1]
	n := e.node
	if e.isLink {
		if n, err = t.linkTarget(e.link); err != nil {
			return fmt.Errorf("hard link to %q: %w", join(e.link), err)
		}
		if err := n.Check(name); err != nil {
			return err
		}
	} else if n.IsRegular() && n.Data.Size() > 0 {
		t.files = append(t.files, n)
	}
	old := dir.Children[name]
	if old != nil && old.IsDir() && n.IsDir() {
		n.Children = old.Children
	} else if old != nil {
		t.gone = true
	}
	dir.Children[name] = n
	return nil
}

func (t *Tree) linkTarget(path []string) (*erofs.Inode, error) {
	if len(path) == 0 {
		return nil, errors.New("it is a directory")
	}
	dir, err := t.parent(path, false)
	if err != nil {
		return nil, err
	}
	if dir == nil || dir.Children[path[len(path)-1]] == nil {
		return nil, errors.New("the image has no such file")
	}
	n := dir.Children[path[len(path)-1]]
	if n.IsDir() {
		return nil, errors.New("it is a directory")
	}
	return n, nil
}

// parent returns the directory that holds a path's last component.
func (t *Tree) parent(path []string, create bool) (*erofs.Inode, error) {
	if len(path) == 0 {
		return nil, errors.New("the root of the image has no name")
	}
	return t.dir(path[:len(path)-1], create)
}

// dir returns the directory at path, which may go through symbolic links. When there is none it is made, with what is
// missing above; or without create, nil is returned.
func (t *Tree) dir(path []string, create bool) (*erofs.Inode, error) {
	at := []*erofs.Inode{t.root} // from the root to where we are
	links := 0
	for len(path) > 0 {
		name := path[0]
		path = path[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) == 1 {
				return nil, errors.New("a symbolic link on its path points outside of the image")
			}
			at = at[:len(at)-1]
			continue
		}
		here := at[len(at)-1]
		next := here.Children[name]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			next = &erofs.Inode{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Inode{}}
			if err := next.Check(name); err != nil {
				return nil, err
			}
			here.Children[name] = next
		case next.IsSymlink():
			if links++; links > maxLinks {
				return nil, fmt.Errorf("more than %d symbolic links on its path", maxLinks)
			}
			if strings.HasPrefix(next.Target, "/") {
				at = at[:1]
			}
			path = append(strings.Split(next.Target, "/"), path...)
			continue
		case !next.IsDir() && !create:
			return nil, nil
		case !next.IsDir():
			return nil, fmt.Errorf("%q on its path is not a directory", name)
		}
		if len(at) > maxDepth {
			return nil, fmt.Errorf("%w of %d directories in a path", ErrLimit, maxDepth)
		}
		at = append(at, next)
	}
	return at[len(at)-1], nil
}

func join(path []string) string { return "/" + strings.Join(path, "/") }
