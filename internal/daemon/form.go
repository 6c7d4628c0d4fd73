package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"sync"

	"github.com/hornetd/hornetd/api"
)

// maxForm bounds the body of a bundle: its parts, and what a form is beside them.
const maxForm = api.MaxObjectBytes + api.MaxManifestBytes + 2*api.MaxSignatureBytes + 64<<10

// runBundle reads a bundle and has it run. Of a user's bundles as many are in memory
// as they may have changes.
func (l *limiter) runBundle(core Core, r request) (any, error) {
	if err := core.MayRun(r.who); err != nil { // before anything of it is read
		return nil, err
	}
	for _, flag := range []string{"lease", "targets"} {
		if v := r.query.Get(flag); r.query.Has(flag) && v != "true" {
			return nil, api.Errorf(api.KindBadRequest, "%s %.80q: want true", flag, v)
		}
	}
	shows, lease := changesTo(r.Request, api.UpgradeTarget), r.query.Has("lease")
	switch {
	case shows && lease:
		return nil, api.Errorf(api.KindBadRequest, "lease: not with %s, whose connection ends with the load", api.UpgradeTarget).
			WithHint(`send "Upgrade: %s", and targets=true in the query`, api.UpgradeLease)
	case r.query.Has("targets") && !lease:
		return nil, api.Errorf(api.KindBadRequest, "targets: without a lease there are none").WithHint("send lease=true as well")
	case !shows:
		if _, err := asksLease(r, lease); err != nil {
			return nil, err
		}
	}
	if err := l.takeBundle(r.who.UID); err != nil {
		core.Refuse(r.who, "run", err)
		return nil, err
	}
	done := sync.OnceFunc(func() { l.giveBundle(r.who.UID) })
	defer done()
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != api.BundleType {
		return nil, api.Errorf(api.KindBadRequest, "body: is of type %.80q, want %s", r.Header.Get("Content-Type"), api.BundleType).
			WithHint("send a form of files, as curl -F manifest=@NAME.toml -F object=@NAME.bpf.o does")
	}
	var b api.Bundle
	if err := readForm(http.MaxBytesReader(r.w, r.Body, maxForm), params["boundary"], b.Parts()); err != nil {
		return nil, err
	}
	name := r.query.Get("name")
	may := func() error { return core.MayRunShown(r.who, name, b) }
	switch {
	case shows:
		return nil, takeTargets(core, r, may, func(fds []int) (api.Collection, error) { return core.RunShown(r.who, name, b, fds) })
	case r.query.Has("targets"):
		return nil, holdShown(core, r, may, func(ctx context.Context, fds []int) (api.LeaseGrant, error) {
			defer done() // the lease goes on
			return core.RunLeaseShown(ctx, r.who, name, b, fds)
		})
	case lease:
		return hold(core, r, func() (api.LeaseGrant, error) {
			defer done() // the lease goes on
			return core.RunLease(r.Context(), r.who, name, b)
		})
	}
	return core.Run(r.who, name, b)
}

// readForm reads the parts of a form, RFC 7578, each at most once.
func readForm(body io.Reader, boundary string, parts []api.BundlePart) error {
	sent := &tail{Reader: body, end: []byte("--" + boundary + "--")}
	form := multipart.NewReader(sent, boundary)
	for {
		part, err := form.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return badForm("form: %w", err)
		}
		if err := readPart(part, parts); err != nil {
			return err
		}
	}
	// The library takes one that is cut off in the header of a part for whole.
	if whole, err := sent.ended(); err != nil || !whole {
		return badForm("form: has no end, or something behind it: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	for _, p := range parts {
		if *p.Bytes == nil && !p.Optional {
			return badForm("form: part %q is missing", p.Name)
		}
	}
	return nil
}

// tail is a reader that knows how what it read ended.
type tail struct {
	io.Reader
	end  []byte
	last []byte
}

func (t *tail) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	t.last = append(t.last, b[:n]...)
	if more := len(t.last) - len(t.end) - len("\r\n"); more > 0 {
		t.last = append(t.last[:0], t.last[more:]...)
	}
	return n, err
}

// ended reads the rest and reports whether end is the last of all, but for a line's
// end.
func (t *tail) ended() (bool, error) {
	_, err := io.Copy(io.Discard, t)
	return bytes.HasSuffix(bytes.TrimRight(t.last, "\r\n"), t.end), err
}

func readPart(part *multipart.Part, parts []api.BundlePart) error {
	name := part.FormName()
	for _, p := range parts {
		if p.Name != name {
			continue
		}
		if *p.Bytes != nil {
			return badForm("form: part %q is there twice", name)
		}
		if coded := part.Header.Get("Content-Transfer-Encoding"); coded != "" && coded != "binary" {
			return badForm("form: part %q is encoded as %.40q", name, coded)
		}
		b, err := io.ReadAll(io.LimitReader(part, int64(p.Max)+1))
		switch {
		case err != nil:
			return badForm("form: part %q: %w", name, err)
		case len(b) > p.Max:
			return api.Errorf(api.KindLimit, "form: part %q is longer than %d bytes", name, p.Max)
		case len(b) == 0:
			return badForm("form: part %q is empty", name)
		}
		*p.Bytes = b
		return nil
	}
	return badForm("form: unknown part %.80q", name)
}

func badForm(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	kind := api.KindBadRequest
	if errors.As(err, new(*http.MaxBytesError)) {
		kind = api.KindLimit
	}
	return api.Errorf(kind, "%w", err).WithHint("send the parts manifest and object, and where there are any manifest-signature and signature, each once")
}
