package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// eventName is what a group and a name of a trace event may look like.
var eventName = regexp.MustCompile(`^[A-Za-z0-9_]{1,128}/[A-Za-z0-9_]{1,128}$`)

// tracepointID returns the number that perf_event_open(2) wants for the trace
// event name, "group/name". Only tracefs tells it. It is looked up anew each
// time: tracefs may be mounted after hornetd has started.
func tracepointID(name string) (uint64, error) {
	if !eventName.MatchString(name) {
		return 0, remedy.With(fmt.Errorf("%q is not the name of a tracepoint", name),
			"write GROUP/NAME, such as sched/sched_process_exec")
	}
	dirs, err := tracefs()
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "events", name, "id"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("tracepoint %s: %w", name, err)
		}
		id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("tracepoint %s: %w", name, err)
		}
		return id, nil
	}
	return 0, remedy.With(fmt.Errorf("this kernel has no tracepoint %s", name),
		"name one of those below %s/events", dirs[0])
}

// tracefs returns where the trace events can be read, at least one directory.
func tracefs() ([]string, error) {
	dirs, err := mountPoints("tracefs")
	if err != nil {
		return nil, err
	}
	debug, err := mountPoints("debugfs")
	if err != nil {
		return nil, err
	}
	for _, d := range debug {
		// Looking into it mounts tracefs there.
		if _, err := os.Stat(filepath.Join(d, "tracing/events")); err == nil {
			dirs = append(dirs, filepath.Join(d, "tracing"))
		}
	}
	if len(dirs) == 0 {
		return nil, remedy.With(errors.New("tracefs is not mounted, and only it tells the number of a tracepoint"),
			`mount it: mount -t tracefs tracefs /sys/kernel/tracing; or use SEC("raw_tp/NAME"), which does not need it`)
	}
	return dirs, nil
}
