package vmtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Report is what a guest said.
type Report struct {
	Release string // of the kernel; "" if /init never ran
	Boots   int    // how often it was started; all but the last hung or died before /init
	Exits   []Exit // of the commands that ended, in order
	Files   map[string][]byte
	Console string // path of the console's log, kept if the guest failed

	running int // index of the command that runs, or -1
	broken  string
	ended   bool
	// wait is told how long the next marker may take; 0 is for ever.
	wait func(time.Duration)
}

func newReport() *Report {
	return &Report{Files: map[string][]byte{}, running: -1, wait: func(time.Duration) {}}
}

// Exit is how a command ended. Status is -1 if it was killed.
type Exit struct {
	Command string
	Status  int
	How     string // "exited", "timeout" or a signal
}

// OK says whether the command succeeded.
func (e Exit) OK() bool { return e.Status == 0 && e.How == "exited" }

// grace is what a guest has to end a command whose time is over. One that does
// not has a kernel that hangs.
const grace = 30 * time.Second

// Most of what a guest can make the host keep in memory.
const maxFile = 64 << 20

// read follows the stream of a guest with the plan p until it ends. What the
// commands print goes to out, byte for byte: a newline is held back until it is
// known not to be that of a marker.
func (r *Report) read(in io.Reader, p *Plan, out func(command int, b []byte)) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	mark := marker(p.Nonce)
	held := ""
	for start := true; ; {
		line, err := lines.ReadSlice('\n')
		words, isMark := strings.CutPrefix(string(line), mark)
		if start && isMark && err == nil {
			held = ""
			if err := r.marker(strings.TrimSuffix(words, "\n"), p, lines); err != nil {
				return err
			}
			continue
		}
		text, whole := bytes.CutSuffix(line, []byte("\n"))
		if said := held + string(text); said != "" && r.running >= 0 {
			out(r.running, []byte(said))
		}
		held = ""
		if start = err == nil; whole {
			held = "\n"
		}
		switch err {
		case nil, bufio.ErrBufferFull: // the rest of a long line follows
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

func (r *Report) marker(line string, p *Plan, body io.Reader) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "boot":
		r.Release = rest
		r.wait(0)
	case "start":
		i, err := strconv.Atoi(rest)
		if err != nil || i < 0 || i >= len(p.Commands) {
			return fmt.Errorf("guest: marker %q", line)
		}
		r.running = i
		if d := p.Commands[i].Timeout; d > 0 {
			r.wait(d + grace)
		}
	case "exit":
		return r.exit(line, rest, p)
	case "file":
		return r.file(line, rest, body)
	case "broken":
		r.broken = rest
	case "end":
		r.ended = true
	default:
		return fmt.Errorf("guest: marker %q", line)
	}
	return nil
}

func (r *Report) exit(line, rest string, p *Plan) error {
	var i, status int
	var how string
	if n, _ := fmt.Sscanf(rest, "%d %d %s", &i, &status, &how); n != 3 || i != r.running {
		return fmt.Errorf("guest: marker %q", line)
	}
	r.Exits = append(r.Exits, Exit{p.Commands[i].Name, status, how})
	r.running = -1
	r.wait(0)
	return nil
}

func (r *Report) file(line, rest string, body io.Reader) error {
	size, name, ok := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if !ok || err != nil || n < 0 || n > maxFile {
		return fmt.Errorf("guest: marker %q", line)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(body, b); err != nil {
		return fmt.Errorf("guest: file %s: %w", name, err)
	}
	r.Files[name] = b
	return nil
}

// verdict is nil if every command ended well. console is the text of the
// console, where a kernel says why it died.
func (r *Report) verdict(p *Plan, console string, timedOut bool) error {
	why := func() string {
		if s := lastWords(console); s != "" {
			return s
		}
		return "the guest ended and did not say why"
	}
	switch {
	case r.broken != "":
		return fmt.Errorf("guest: %s", r.broken)
	case timedOut && r.Release == "":
		return fmt.Errorf("guest: time-out before /init ran, %d times", r.Boots)
	case timedOut && r.running >= 0:
		return fmt.Errorf("guest: time-out while %s ran", p.Commands[r.running].Name)
	case timedOut:
		return errors.New("guest: time-out between commands")
	case r.Release == "":
		return fmt.Errorf("guest: kernel did not start /init: %s", why())
	case r.running >= 0:
		return fmt.Errorf("guest: died while %s ran: %s", p.Commands[r.running].Name, why())
	case !r.ended || len(r.Exits) != len(p.Commands):
		return fmt.Errorf("guest: died after %d of %d commands: %s", len(r.Exits), len(p.Commands), why())
	}
	for _, e := range r.Exits {
		if !e.OK() {
			return &ExitError{e}
		}
	}
	return nil
}

// ExitError says that a command ran to its end and failed.
type ExitError struct{ Exit }

func (e *ExitError) Error() string {
	if e.How == "exited" {
		return fmt.Sprintf("%s: exit status %d", e.Command, e.Status)
	}
	return fmt.Sprintf("%s: %s", e.Command, e.How)
}

// lastWords returns what a console says about the death of its kernel: from
// the first line of a panic or an oops on, a few lines.
func lastWords(console string) string {
	lines := strings.Split(strings.ReplaceAll(console, "\r", ""), "\n")
	for i, l := range lines {
		for _, s := range []string{"Kernel panic - not syncing", "BUG: ", "Oops: ", "general protection fault"} {
			if strings.Contains(l, s) {
				return strings.Join(lines[i:min(i+4, len(lines))], " | ")
			}
		}
	}
	return ""
}
