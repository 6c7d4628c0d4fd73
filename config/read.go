package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
)

// DefaultFile is the configuration that may be absent.
const DefaultFile = "/etc/hornet/hornetd.toml"

// Read reads and parses the file at path. Errors are safefile's and Parse's.
func Read(path string) (Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	b, err := safefile.Read(path, MaxSize)
	cfg := Default()
	switch {
	case errors.Is(err, fs.ErrNotExist) && path == DefaultFile:
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, remedy.With(fmt.Errorf("configuration %s: no such file", path),
			"write it (hornetd.toml.example explains every key), or leave --config out for the defaults")
	case err != nil:
		return Config{}, fmt.Errorf("configuration: %w", err)
	default:
		if cfg, err = Parse(path, b); err != nil {
			return Config{}, err
		}
	}
	cfg.File, cfg.Digest = path, sha256.Sum256(b)
	return cfg, nil
}
