package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap/zapcore"

	"github.com/hornetd/hornetd/internal/tomlfile"
)

// checker turns the raw file into a Config and notes what is wrong with it.
type checker struct{ *tomlfile.Problems }

func (c checker) paths(raw rawPaths) Paths {
	const key, most = "paths.manifests", 16
	if n := len(raw.Manifests); n == 0 || n > most {
		c.Add(key, `write manifests = ["/etc/hornet.d"], or remove the key`, "has %d directories, must have 1 to %d", n, most)
		return Paths{}
	}
	seen := map[string]bool{}
	for i, dir := range raw.Manifests {
		at := fmt.Sprintf("%s[%d]", key, i)
		c.path(at, dir)
		if seen[dir] {
			c.Add(at, "remove one", "%.200q stands there twice", dir)
		}
		seen[dir] = true
	}
	c.path("paths.trust", raw.Trust)
	c.path("paths.revoked", raw.Revoked)
	c.path("paths.bpffs", raw.BPFFS)
	c.path("paths.state", raw.State)
	c.path("paths.bundles", raw.Bundles)
	if slices.Contains(raw.Manifests, raw.Bundles) {
		c.Add("paths.bundles", "name another directory", "%.200q is a directory of manifests", raw.Bundles)
	}
	return Paths(raw)
}

// path checks that a path is absolute, clean and not the root.
func (c checker) path(key, path string) {
	switch clean := filepath.Clean(path); {
	case !c.Printable(key, path):
	case !filepath.IsAbs(path):
		c.Add(key, "write an absolute path", "%.200q is not an absolute path", path)
	case clean != path:
		c.Add(key, fmt.Sprintf("write %q", clean), "%.200q is not the shortest form of a path", path)
	case path == "/":
		c.Add(key, "name a directory of its own", "is the root directory")
	}
}

func (c checker) api(raw rawAPI) API {
	const longest = 107 // sun_path without the NUL
	c.path("api.socket", raw.Socket)
	if len(raw.Socket) > longest {
		c.Add("api.socket", "choose a shorter path", "has %d bytes, more than the %d of a socket's path", len(raw.Socket), longest)
	}
	bad := func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/:,", r) }
	if c.Printable("api.group", raw.Group) && (strings.ContainsFunc(raw.Group, bad) || strings.HasPrefix(raw.Group, "-")) {
		c.Add("api.group", "write a name from /etc/group, or a number", "%.80q cannot be the name of a group", raw.Group)
	}
	c.count("api.connections", raw.Connections, 4096)
	c.count("api.connections_per_user", raw.ConnectionsPerUser, 4096)
	c.count("api.changes_per_user", raw.ChangesPerUser, 4096)
	c.count("api.recorded_per_minute", raw.RecordedPerMinute, 60_000)
	c.count("api.recorded_burst", raw.RecordedBurst, 1_000_000)
	return API{
		Socket: raw.Socket, Mode: os.FileMode(raw.Mode), Group: raw.Group,
		Connections: raw.Connections, ConnectionsPerUser: raw.ConnectionsPerUser, ChangesPerUser: raw.ChangesPerUser,
		RecordedPerMinute: raw.RecordedPerMinute, RecordedBurst: raw.RecordedBurst,
		HeaderTime:  c.time("api.header_time", raw.HeaderTime, time.Second, time.Minute),
		RequestTime: c.time("api.request_time", raw.RequestTime, time.Duration(raw.HeaderTime), 10*time.Minute),
		AnswerTime:  c.time("api.answer_time", raw.AnswerTime, time.Second, time.Hour),
		IdleTime:    c.time("api.idle_time", raw.IdleTime, time.Second, time.Hour),
		LeaseGrace:  c.time("api.lease_grace", raw.LeaseGrace, time.Second, time.Hour),
	}
}

func (c checker) log(raw rawLog) Log {
	var level zapcore.Level
	c.OneOf("log.level", raw.Level, "debug", "info", "warn", "error")
	_ = level.Set(raw.Level) // OneOf has told
	c.OneOf("log.format", raw.Format, string(FormatAuto), string(FormatJSON), string(FormatConsole))
	return Log{Level: level, Format: Format(raw.Format)}
}

func (c checker) limits(raw rawLimits) Limits {
	c.count("limits.maps", raw.Maps, 4096)
	c.count("limits.programs", raw.Programs, 4096)
	c.count("limits.total_programs", raw.TotalPrograms, 1_000_000)
	c.count("limits.total_collections", raw.TotalCollections, 10_000)
	c.count("limits.user_programs", raw.UserPrograms, 1_000_000)
	c.count("limits.user_collections", raw.UserCollections, 10_000)
	c.count("limits.user_streams", raw.UserStreams, 4096)
	c.count("limits.total_streams", raw.TotalStreams, 4096)
	c.count("limits.user_verifier_jobs", raw.UserVerifierJobs, 16)
	c.count("limits.total_verifier_jobs", raw.TotalVerifierJobs, 16)
	c.size("limits.stream_memory", raw.StreamMemory, 64<<10, 64<<20)
	c.size("limits.stream_buffer", raw.StreamBuffer, 4<<10, 16<<20)
	c.count("limits.events", raw.Events, 16384)
	if raw.TotalMemory < raw.Memory {
		c.Add("limits.total_memory", "raise it, or lower limits.memory",
			"is %d, less than the %d of a single manifest", raw.TotalMemory, raw.Memory)
	}
	return Limits{
		Memory: uint64(raw.Memory), Maps: raw.Maps, Programs: raw.Programs,
		TotalMemory: uint64(raw.TotalMemory), TotalPrograms: raw.TotalPrograms, TotalCollections: raw.TotalCollections,
		UserMemory: uint64(raw.UserMemory), UserPrograms: raw.UserPrograms, UserCollections: raw.UserCollections,
		UserStreams: raw.UserStreams, TotalStreams: raw.TotalStreams, UserVerifierJobs: raw.UserVerifierJobs, TotalVerifierJobs: raw.TotalVerifierJobs,
		StreamMemory: uint64(raw.StreamMemory), StreamBuffer: uint64(raw.StreamBuffer), Events: raw.Events,
	}
}

func (c checker) time(key string, d duration, least, most time.Duration) time.Duration {
	if t := time.Duration(d); t < least || t > most {
		c.Add(key, fmt.Sprintf("write a time from %q to %q", least, most), "is %s, must be %s to %s", t, least, most)
	}
	return time.Duration(d)
}

func (c checker) size(key string, n tomlfile.Size, least, most tomlfile.Size) {
	if n < least || n > most {
		c.Add(key, fmt.Sprintf("write a size from %dKiB to %dKiB", least>>10, most>>10), "is %d, must be %d to %d", n, least, most)
	}
}

func (c checker) count(key string, n, most int) {
	if n < 1 || n > most {
		c.Add(key, fmt.Sprintf("write a number from 1 to %d", most), "is %d, must be 1 to %d", n, most)
	}
}

func (c checker) manifests(raw rawManifests, dirs []string) Manifests {
	c.OneOf("manifests.removed", raw.Removed, string(RemovedUnload), string(RemovedKeep))
	for i, dir := range raw.Signed {
		if !slices.Contains(dirs, dir) {
			c.Add(fmt.Sprintf("manifests.signed[%d]", i), "write it as it stands in paths.manifests, or remove it", "%.200q is not a directory of manifests", dir)
		}
	}
	for dir, names := range raw.Signers {
		key := "manifests.signers." + dir
		if !slices.Contains(dirs, dir) {
			c.Add(key, "write it as it stands in paths.manifests, or remove it", "%.200q is not a directory of manifests", dir)
		}
		for i, name := range names {
			if !signerName.MatchString(name) {
				c.Add(fmt.Sprintf("%s[%d]", key, i), "write the name of a file in the trust store, without .pem", "%.80q is not the name of a signer", name)
			}
		}
	}
	return Manifests{Removed: Removed(raw.Removed), Signed: raw.Signed, Signers: raw.Signers}
}

func (c checker) trust(raw rawTrust) Trust {
	for i, name := range raw.Roots {
		c.Printable(fmt.Sprintf("trust.roots[%d]", i), name)
	}
	c.OneOf("trust.revoked", raw.Revoked, string(RevokedKeep), string(RevokedUnload))
	c.OneOf("trust.expiry", raw.Expiry, string(ExpiryBoot), string(ExpiryStrict))
	return Trust{Roots: raw.Roots, Revoked: Revoked(raw.Revoked), Expiry: Expiry(raw.Expiry), Development: raw.Development}
}
