package config

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
)

// MaxSize is how many bytes a configuration may have.
const MaxSize = tomlfile.MaxSize

// Error is a refused configuration: file, line, key and reason, with a remedy.
type Error = tomlfile.Error

// Parse reads the configuration b; what it does not say is as in Default. file
// is used in messages only. The error is an *Error for the first thing in the
// file that is wrong.
func Parse(file string, b []byte) (Config, error) {
	raw := rawOf(Default())
	text, err := tomlfile.Decode(file, b, &raw)
	if err != nil {
		return Config{}, err
	}
	c := checker{text.Problems()}
	cfg := Config{
		Paths:     c.paths(raw.Paths),
		API:       c.api(raw.API),
		Log:       c.log(raw.Log),
		Limits:    c.limits(raw.Limits),
		Manifests: c.manifests(raw.Manifests, raw.Paths.Manifests),
		Signers:   c.signers(raw.Signers),
		Trust:     c.trust(raw.Trust),
		Rules:     c.rules(raw.Rules),
		Guard:     c.guard(raw.Guard),
	}
	if cfg.Guard.Disarm == DisarmSigned && len(cfg.Trust.Roots) == 0 {
		c.Add("guard.disarm", "name who may sign in trust.roots", `is "signed", and trust.roots is empty: nobody could`)
	}
	if err := c.First(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// The file as it is written. It is filled with the defaults before it is read.
type rawConfig struct {
	Paths     rawPaths             `toml:"paths"`
	API       rawAPI               `toml:"api"`
	Log       rawLog               `toml:"log"`
	Limits    rawLimits            `toml:"limits"`
	Manifests rawManifests         `toml:"manifests"`
	Signers   map[string]rawSigner `toml:"signers"`
	Trust     rawTrust             `toml:"trust"`
	Rules     []rawRule            `toml:"rule"`
	Guard     rawGuard             `toml:"guard"`
}

type rawPaths struct {
	Manifests  []string `toml:"manifests"`
	Trust      string   `toml:"trust"`
	Revoked    string   `toml:"revoked"`
	BPFFS      string   `toml:"bpffs"`
	State      string   `toml:"state"`
	Bundles    string   `toml:"bundles"`
	MountBPFFS bool     `toml:"mount_bpffs"`
}

type rawAPI struct {
	Socket string `toml:"socket"`
	Mode   mode   `toml:"mode"`
	Group  string `toml:"group"`

	Connections        int `toml:"connections"`
	ConnectionsPerUser int `toml:"connections_per_user"`
	ChangesPerUser     int `toml:"changes_per_user"`
	RecordedPerMinute  int `toml:"recorded_per_minute"`
	RecordedBurst      int `toml:"recorded_burst"`

	HeaderTime  duration `toml:"header_time"`
	RequestTime duration `toml:"request_time"`
	AnswerTime  duration `toml:"answer_time"`
	IdleTime    duration `toml:"idle_time"`
	LeaseGrace  duration `toml:"lease_grace"`
}

type rawLog struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

type rawLimits struct {
	Memory            tomlfile.Size `toml:"memory"`
	Maps              int           `toml:"maps"`
	Programs          int           `toml:"programs"`
	TotalMemory       tomlfile.Size `toml:"total_memory"`
	TotalPrograms     int           `toml:"total_programs"`
	TotalCollections  int           `toml:"total_collections"`
	UserMemory        tomlfile.Size `toml:"user_memory"`
	UserPrograms      int           `toml:"user_programs"`
	UserCollections   int           `toml:"user_collections"`
	UserStreams       int           `toml:"user_streams"`
	TotalStreams      int           `toml:"total_streams"`
	UserVerifierJobs  int           `toml:"user_verifier_jobs"`
	TotalVerifierJobs int           `toml:"total_verifier_jobs"`
	StreamMemory      tomlfile.Size `toml:"stream_memory"`
	StreamBuffer      tomlfile.Size `toml:"stream_buffer"`
	Events            int           `toml:"events"`
}

type rawManifests struct {
	Removed string              `toml:"removed"`
	Signed  []string            `toml:"signed"`
	Signers map[string][]string `toml:"signers"`
}

// rawSigner has pointers where an absent key bounds nothing and an empty one
// allows nothing.
type rawSigner struct {
	Attach    *[]string       `toml:"attach"`
	Programs  *[]string       `toml:"programs"`
	Variables *[]string       `toml:"variables"`
	Limits    rawSignerLimits `toml:"limits"`
	Untrusted bool            `toml:"untrusted_parser"`
}

type rawSignerLimits struct {
	Memory   *tomlfile.Size `toml:"memory"`
	Maps     *int           `toml:"maps"`
	Programs *int           `toml:"programs"`
}

type rawTrust struct {
	Roots       []string `toml:"roots"`
	Revoked     string   `toml:"revoked"`
	Expiry      string   `toml:"expiry"`
	Development bool     `toml:"development"`
}

func rawOf(c Config) rawConfig {
	return rawConfig{
		Paths: rawPaths(c.Paths),
		API:   rawAPIOf(c.API),
		Log:   rawLog{c.Log.Level.String(), string(c.Log.Format)},
		Limits: rawLimits{tomlfile.Size(c.Limits.Memory), c.Limits.Maps, c.Limits.Programs,
			tomlfile.Size(c.Limits.TotalMemory), c.Limits.TotalPrograms, c.Limits.TotalCollections,
			tomlfile.Size(c.Limits.UserMemory), c.Limits.UserPrograms, c.Limits.UserCollections,
			c.Limits.UserStreams, c.Limits.TotalStreams, c.Limits.UserVerifierJobs, c.Limits.TotalVerifierJobs, tomlfile.Size(c.Limits.StreamMemory), tomlfile.Size(c.Limits.StreamBuffer), c.Limits.Events},
		Manifests: rawManifests{string(c.Manifests.Removed), c.Manifests.Signed, c.Manifests.Signers},
		Trust:     rawTrust{c.Trust.Roots, string(c.Trust.Revoked), string(c.Trust.Expiry), c.Trust.Development},
		Guard:     rawGuard{Mode: string(c.Guard.Mode), Confirm: duration(c.Guard.Confirm), Disarm: string(c.Guard.Disarm)},
	}
}

func rawAPIOf(a API) rawAPI {
	return rawAPI{
		Socket: a.Socket, Mode: mode(a.Mode), Group: a.Group,
		Connections: a.Connections, ConnectionsPerUser: a.ConnectionsPerUser, ChangesPerUser: a.ChangesPerUser,
		RecordedPerMinute: a.RecordedPerMinute, RecordedBurst: a.RecordedBurst,
		HeaderTime: duration(a.HeaderTime), RequestTime: duration(a.RequestTime),
		AnswerTime: duration(a.AnswerTime), IdleTime: duration(a.IdleTime), LeaseGrace: duration(a.LeaseGrace),
	}
}

// duration is a time in a string such as "5s": a number alone would have no unit.
type duration time.Duration

func (d *duration) UnmarshalTOML(v any) error {
	s, ok := v.(string)
	if !ok {
		return remedy.With(errors.New("is not a string"), `write a number with its unit in quotes, such as "5s"`)
	}
	t, err := time.ParseDuration(s)
	if err != nil {
		return remedy.With(fmt.Errorf("%.40q is not a time", s), `write a number with ms, s, m or h, such as "5s"`)
	}
	*d = duration(t)
	return nil
}

// mode is the permission bits of a socket, in a string of octal digits: as a
// number 660 and 0o660 would be two different modes.
type mode os.FileMode

func (m *mode) UnmarshalTOML(v any) error {
	s, ok := v.(string)
	if !ok {
		return remedy.With(errors.New("is not a string"), `write octal digits in quotes, such as "0660"`)
	}
	n, err := strconv.ParseUint(s, 8, 32)
	switch {
	case err != nil:
		return remedy.With(fmt.Errorf("%.40q is not an octal mode", s), `write octal digits in quotes, such as "0660"`)
	case n&^0o666 != 0:
		return remedy.With(fmt.Errorf("%.40q has bits that mean nothing for a socket", s), "write read and write bits only, such as 0660")
	case n&0o600 != 0o600:
		return remedy.With(fmt.Errorf("%.40q shuts root out", s), "begin it with 06")
	}
	*m = mode(n)
	return nil
}
