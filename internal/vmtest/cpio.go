package vmtest

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// cpioWriter writes the "newc" format of cpio, which the kernel unpacks into
// its first root (Documentation/driver-api/early-userspace/buffer-format.rst).
// The first error stays; close returns it.
type cpioWriter struct {
	w    io.Writer
	ino  uint32
	seen map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpioWriter { return &cpioWriter{w: w, seen: map[string]bool{}} }

// Bits of a mode as the kernel has them; fs.FileMode has others.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

func (c *cpioWriter) dir(name string, perm fs.FileMode) { c.add(name, modeDir|uint32(perm), nil) }

func (c *cpioWriter) file(name string, perm fs.FileMode, body []byte) {
	c.add(name, modeFile|uint32(perm), body)
}

func (c *cpioWriter) symlink(name, target string) { c.add(name, modeLink|0o777, []byte(target)) }

// add writes an entry and, before it, the directories that lead to it: the
// kernel makes none. Of two entries of one name the first counts.
func (c *cpioWriter) add(name string, mode uint32, body []byte) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" || c.seen[name] {
		return
	}
	if parent := path.Dir(name); parent != "." {
		c.dir(parent, 0o755)
	}
	c.seen[name] = true
	c.ino++
	c.entry(name, mode, body)
}

// entry writes one header with its name and body, each padded to 4 bytes.
func (c *cpioWriter) entry(name string, mode uint32, body []byte) {
	if c.err == nil && len(body) > 1<<32-1 {
		c.err = fmt.Errorf("cpio: %s: %d bytes: the format ends at 4 GiB", name, len(body))
	}
	links := 1
	if mode&modeDir != 0 {
		links = 2
	}
	// magic ino mode uid gid nlink mtime filesize devmajor devminor
	// rdevmajor rdevminor namesize check
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, links, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
	c.write(padded(header + name + "\x00"))
	c.writeBytes(body)
	c.write(padding(len(body)))
}

// close writes the entry that ends an archive.
func (c *cpioWriter) close() error {
	c.ino = 0
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpioWriter) write(s string) { c.writeBytes([]byte(s)) }

func (c *cpioWriter) writeBytes(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}

func padded(s string) string { return s + padding(len(s)) }

func padding(n int) string { return "\x00\x00\x00"[:-n&3] }
