package testenv

import (
	"os"
	"strings"
)

// mountPoints returns where filesystems of type fstype are mounted, whole (not
// a bind mount of a part), in mount order.
func mountPoints(fstype string) ([]string, error) {
	return mountsIn("/proc/thread-self/mountinfo", fstype)
}

func mountsIn(mountinfo, fstype string) ([]string, error) {
	b, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if ok && len(fields) >= 5 && fields[3] == "/" && strings.HasPrefix(right, fstype+" ") {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points, nil
}

// unescape undoes the octal escapes of proc(5) mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
