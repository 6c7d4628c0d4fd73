package api

import (
	"bytes"
	"context"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
)

// BundleType is the media type of a bundle: a form of files, RFC 7578, each part
// named as the field of Bundle that it is.
const BundleType = "multipart/form-data"

// Most bytes that each part of a bundle may have.
const (
	MaxManifestBytes  = 64 << 10
	MaxObjectBytes    = 8 << 20
	MaxSignatureBytes = 64 << 10
)

// Bundle is what RouteRun sends: a collection of the caller's own, in the form
// in which it would lie in a directory of manifests.
type Bundle struct {
	Manifest          []byte `json:"manifest"`                     // TOML
	ManifestSignature []byte `json:"manifest-signature,omitempty"` // where the manifest is signed
	Object            []byte `json:"object"`                       // ELF
	Signature         []byte `json:"signature,omitempty"`          // of the object, where it is not in it
}

// BundlePart is one part of a bundle.
type BundlePart struct {
	Name     string
	Bytes    *[]byte
	Max      int // bytes
	Optional bool
}

// Parts lists the parts of b.
func (b *Bundle) Parts() []BundlePart {
	return []BundlePart{
		{"manifest", &b.Manifest, MaxManifestBytes, false},
		{"manifest-signature", &b.ManifestSignature, MaxSignatureBytes, true},
		{"object", &b.Object, MaxObjectBytes, false},
		{"signature", &b.Signature, MaxSignatureBytes, true},
	}
}

// Run has the daemon run a bundle as a collection of the caller's own, and
// returns it as it then is; its name is u, the caller's user id, - and name. One
// that runs already is replaced, or left as it is where nothing of it changed.
func (c *Client) Run(ctx context.Context, name string, b Bundle) (Collection, error) {
	req, err := newRun(ctx, url.Values{"name": {name}}, b)
	if err != nil {
		return Collection{}, err
	}
	resp, err := c.do(req, RouteRun, "application/json")
	if err != nil {
		return Collection{}, err
	}
	var out Collection
	return out, c.decode(ctx, RouteRun, resp, &out)
}

// RunLease is Run for what does not run yet, for as long as the lease is held, with
// files as LoadLease has them.
func (c *Client) RunLease(ctx context.Context, name string, b Bundle, files ...*os.File) (*Lease, error) {
	query := url.Values{"name": {name}, "lease": {"true"}}
	if len(files) > 0 {
		query.Set("targets", "true")
	}
	req, err := newRun(ctx, query, b)
	if err != nil {
		return nil, err
	}
	l := &Lease{client: c, name: name}
	if err := l.begin(req, files); err != nil {
		return nil, err
	}
	return l, nil
}

func newRun(ctx context.Context, query url.Values, b Bundle) (*http.Request, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, p := range b.Parts() {
		if p.Optional && len(*p.Bytes) == 0 {
			continue
		}
		w, err := form.CreateFormFile(p.Name, p.Name)
		if err == nil {
			_, err = w.Write(*p.Bytes)
		}
		if err != nil {
			return nil, Errorf(KindInternal, "request: %w", err)
		}
	}
	if err := form.Close(); err != nil {
		return nil, Errorf(KindInternal, "request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hornetd/v1/run", &body)
	if err != nil {
		return nil, Errorf(KindInternal, "request: %w", err)
	}
	req.URL.RawQuery = query.Encode()
	req.Header.Set("Content-Type", form.FormDataContentType())
	// Who may not run is told before 8 MiB are on their way, instead of in the middle.
	req.Header.Set("Expect", "100-continue")
	return req, nil
}
