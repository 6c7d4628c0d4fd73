package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) cat() *cobra.Command {
	store := &trustStore{c: c}
	cmd := &cobra.Command{
		Use:   "cat NAME",
		Short: "Print a collection's manifest and its drop-ins",
		Long: `Print the manifest of a collection as it is on this host, and below it its
drop-ins in the order in which they apply, each behind a comment with its path.
Nothing is checked; hornetctl check does that.`,
		Args:              args("NAME"),
		ValidArgsFunction: c.completeNames,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := store.open(); err != nil {
				return err
			}
			texts, err := manifestTexts(store.manifests, args[0])
			if err != nil {
				return err
			}
			return c.print(map[string]any{"files": texts}, func() {
				for i, t := range texts {
					if i > 0 {
						fmt.Fprintln(c.stdout)
					}
					fmt.Fprintf(c.stdout, "# %s\n%s", escape(t.File), escapeLines(t.Text))
				}
			})
		},
	}
	cmd.Flags().StringVar(&store.config, "config", configFile, "hornetd's configuration, a `file`; the default one may be absent")
	return cmd
}

// manifestText is a file of a manifest, as cat prints it.
type manifestText struct {
	File string `json:"file"`
	Text string `json:"text"`
}

// manifestTexts reads the manifest of a collection and its drop-ins.
func manifestTexts(dirs []string, name string) ([]manifestText, error) {
	src, err := manifest.FindOne(dirs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, remedy.With(fmt.Errorf("collection %q: no such manifest", name), "it would be a file %s.toml in %s", name, strings.Join(dirs, ", "))
	}
	if err != nil {
		return nil, err
	}
	var texts []manifestText
	for _, file := range append([]string{src.File}, src.DropIns...) {
		b, err := safefile.Read(file, maxManifest)
		if errors.Is(err, safefile.ErrEmpty) {
			err = nil
		}
		if err != nil {
			return nil, bare(err)
		}
		texts = append(texts, manifestText{file, string(b)})
	}
	return texts, nil
}

// readManifest reads and parses a manifest with its drop-ins: those beside it, or,
// where it lies in one of dirs, those in all of dirs. Errors name the file as it
// was given.
func readManifest(file string, dirs []string) (manifest.Manifest, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return manifest.Manifest{}, err
	}
	src := manifest.Source{File: path}
	if name, err := manifest.NameOf(path); err == nil {
		if dir := filepath.Dir(path); !slices.Contains(dirs, dir) {
			dirs = []string{dir}
		}
		if src.DropIns, err = manifest.DropInsOf(dirs, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return manifest.Manifest{}, err
		}
	}
	m, err := manifest.Read(src, manifest.Manifest{}, func(file string) ([]byte, error) {
		b, err := safefile.Read(file, maxManifest)
		var missing *fs.PathError
		if errors.As(err, &missing) {
			err = missing.Err // the path is there already
		}
		return b, err
	})
	var e *manifest.Error
	if errors.As(err, &e) && e.File == path && e.Line == 0 && e.Key == "" {
		e.File = file
	}
	return m, err
}

// isDropIn reports whether file is a drop-in of a manifest, by its place.
func isDropIn(file string) bool {
	path, err := filepath.Abs(file)
	return err == nil && isManifest(file) && strings.HasSuffix(filepath.Dir(path), ".toml.d")
}

// signDropIn signs a drop-in. Its name, which is that of its directory, and the
// version of the manifest beside that one are filled in.
func (s *signer) signDropIn(file string) (signatureFile, error) {
	text, err := readFile(file, maxManifest)
	if err != nil {
		return signatureFile{}, err
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return signatureFile{}, err
	}
	of := strings.TrimSuffix(filepath.Dir(path), ".d")
	name, err := manifest.NameOf(of)
	if err != nil {
		return signatureFile{}, err
	}
	d, err := manifest.ParseDropIn(file, text)
	if err != nil {
		return signatureFile{}, err
	}
	if err := d.CheckSigned(); err != nil {
		return signatureFile{}, err
	}
	filled := slices.Clone(text)
	if !d.Has("name") {
		filled = append(fmt.Appendf(nil, "name = %q\n", name), filled...)
	}
	if b, err := readFile(of, maxManifest); err == nil {
		m, err := manifest.Parse(of, b)
		if err != nil {
			return signatureFile{}, err
		}
		if _, err = manifest.Apply(m, d); err != nil {
			return signatureFile{}, err
		}
		if m.Version > 0 && !d.Has("version") {
			filled = append(fmt.Appendf(nil, "version = %d\n", m.Version), filled...)
		}
	}
	if _, err := manifest.ParseDropIn(file, filled); err != nil {
		return signatureFile{}, err
	}
	return s.rewritten(file, text, filled)
}

// dropInsOf is what is shown of the drop-ins that counted.
func dropInsOf(v signing.Verified) []api.DropIn {
	var all []api.DropIn
	for _, d := range v.DropIns() {
		all = append(all, api.DropIn{File: d.File, SHA256: hex.EncodeToString(d.Digest[:]), Signer: d.Signer.Name})
	}
	return all
}

// dropInText is a drop-in and who signed it.
func dropInText(d api.DropIn) string {
	if d.Signer == "" {
		return d.File + ", not signed"
	}
	return d.File + ", signed by " + d.Signer
}
