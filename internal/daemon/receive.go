package daemon

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
)

// loadShown has a collection loaded at what the client shows. Whoever may not load it
// hears so before a 101.
func loadShown(core Core, r request, name string) error {
	if r.ContentLength != 0 {
		return early()
	}
	return takeTargets(core, r, func() error { return core.MayShow(r.who, name) }, func(fds []int) (api.Collection, error) {
		return core.LoadShown(r.who, name, fds)
	})
}

// takeTargets takes the connection from the HTTP server, and on it, if may says that
// the client may show them, descriptors for load.
func takeTargets(core Core, r request, may func() error, load func(fds []int) (api.Collection, error)) error {
	return takeOver(core, r, func(conn *peerConn) {
		// They are closed before the connection is, which counts as the client's until
		// then: the file of a filesystem of theirs may be slow to close.
		fds, err := conn.shown(core, api.UpgradeTarget, may)
		defer closeAll(fds)
		var c api.Collection
		if err == nil {
			c, err = load(fds)
		}
		loaded := api.Loaded{Collection: &c}
		switch {
		case errors.Is(err, errLeft):
			return
		case err != nil:
			loaded = api.Loaded{Error: asAPIError(err)}
		}
		_ = tell(conn, loaded) // or the client left
	})
}

// shown changes to the protocol, if may says that the client may, and takes what they
// show behind that, which is to be closed. From then on the client has the time that a
// load takes. errLeft is that there is nothing more to be said.
func (c *peerConn) shown(core Core, protocol string, may func() error) (fds []int, err error) {
	if err := may(); err != nil {
		answer(c, asAPIError(err))
		return nil, errLeft
	}
	// The time began before: a client that is slow has what is left.
	if switchTo(c, protocol) != nil {
		return nil, errLeft
	}
	if fds, err = c.receive(); err != nil && !errors.Is(err, errLeft) {
		core.Refuse(c.peer, "connect", err)
	}
	c.SetReadDeadline(time.Time{})
	return fds, err
}

// errLeft is that there is nobody any more to tell of anything.
var errLeft = errors.New("connection: the client left")

// receive takes the one message behind the 101: a line's end, and with it the
// descriptors. Whatever comes is returned, to be closed.
func (c *peerConn) receive() (fds []int, err error) {
	b, oob := make([]byte, 2), make([]byte, unix.CmsgSpace(4*(api.MostTargets+1)))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	fds = rightsIn(oob[:max(oobn, 0)])
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fds, wrongTargets("nothing came behind the 101 within %s", eventTimeout)
	case err != nil || n <= 0:
		return fds, errLeft
	case len(fds) > api.MostTargets:
		return fds, wrongTargets("more than %d descriptors came", api.MostTargets)
	case flags&unix.MSG_CTRUNC != 0: // though there was room: it could not be opened, says the kernel, and not why
		return fds, api.Errorf(api.KindUnavailable, "target: hornetd took %d of the descriptors, and may open no more", len(fds)).
			WithHint("try again; else raise LimitNOFILE= of its unit, or see whether a security module refuses what you show")
	case len(fds) == 0:
		return fds, wrongTargets("no descriptor came")
	case n != 1 || b[0] != '\n' || c.waiting():
		return fds, wrongTargets("more came than one line's end")
	}
	return fds, nil
}

func wrongTargets(format string, args ...any) *api.Error {
	return api.Errorf(api.KindProtocol, "target: "+format, args...).
		WithHint("send, behind the 101, one byte, a line's end, in one message with one to %d descriptors", api.MostTargets)
}

// rightsIn returns the descriptors of control messages. They are numbers and no
// files: the runtime would ask the file for more than its number.
func rightsIn(oob []byte) (all []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			all = append(all, fds...)
		}
	}
	return all
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
