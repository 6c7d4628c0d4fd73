package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"
)

// UpgradeFD is the protocol that a connection changes to for a descriptor. Behind
// its 101 the daemon sends one line of JSON, a MapDescriptor, in one message with
// exactly one descriptor (SCM_RIGHTS, unix(7)), and hangs up.
//
// A reader takes 101 and line with recvmsg(2) from the first byte on: read(2)
// loses a descriptor without an error. It sends nothing behind its request:
// what comes before the 101 is an error of kind protocol.
const UpgradeFD = "hornet-fd"

// Access is what a descriptor lets its holder do.
type Access string

const (
	AccessReadOnly  Access = "read-only"  // look up; the kernel refuses the rest
	AccessReadWrite Access = "read-write" // also write, delete and freeze; ring buffers are read with it
)

// MapDescriptor says what the descriptor beside it is.
type MapDescriptor struct {
	Map    string `json:"map"`
	Type   string `json:"type"`
	ID     uint32 `json:"id"`
	Access Access `json:"access"`
}

// OpenMap returns a descriptor of a map, close-on-exec, which is the caller's to
// close. It stays open over whatever happens to the collection: of one that was
// upgraded or unloaded it may be the map that was. Package bpfmap makes an
// *ebpf.Map of it.
func (c *Client) OpenMap(ctx context.Context, collection, mapName string, access Access) (*os.File, MapDescriptor, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, MapDescriptor{}, c.unreachable(ctx, err)
	}
	defer conn.Close()
	// A deadline in the past ends whatever waits.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	var query url.Values
	if access != "" {
		query = url.Values{"access": {string(access)}}
	}
	req, err := newRequest(ctx, RouteMap, []string{collection, mapName}, query, nil)
	if err != nil {
		return nil, MapDescriptor{}, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeFD)
	if err := req.Write(conn); err != nil {
		return nil, MapDescriptor{}, c.unreachable(ctx, err)
	}
	rights := &rightsReader{conn: conn.(*net.UnixConn)}
	defer rights.close()
	r := bufio.NewReader(rights)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, MapDescriptor{}, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != UpgradeFD {
		if resp.StatusCode/100 != 2 && resp.StatusCode >= 200 {
			return nil, MapDescriptor{}, c.refusal(ctx, resp)
		}
		return nil, MapDescriptor{}, c.stranger("answer to %s: status %d, not a change to %s", RouteMap, resp.StatusCode, UpgradeFD)
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, MapDescriptor{}, c.broken(ctx, noEOF(err))
	}
	var d MapDescriptor
	if err := json.Unmarshal(line, &d); err != nil {
		return nil, MapDescriptor{}, c.stranger("descriptor: %w", err)
	}
	fd, err := rights.one()
	if err != nil {
		return nil, MapDescriptor{}, c.stranger("descriptor of map %q: %w", mapName, err)
	}
	return os.NewFile(uintptr(fd), "map "+mapName), d, nil
}

// noEOF is err for a reader who wanted more.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// rightsReader reads a connection and keeps the descriptors that come with the
// bytes.
type rightsReader struct {
	conn *net.UnixConn
	fds  []int
	cut  bool // there were more than it has room for
}

// mostRights is how many descriptors a message may carry here: one is wanted.
const mostRights = 4

func (r *rightsReader) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4*mostRights))
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(b, oob)
	r.cut = r.cut || flags&syscall.MSG_CTRUNC != 0
	messages, _ := syscall.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, _ := syscall.ParseUnixRights(&m)
		r.fds = append(r.fds, fds...)
	}
	return max(n, 0), err // it is -1 with an error
}

// one gives away the one descriptor that has come.
func (r *rightsReader) one() (int, error) {
	switch {
	case r.cut || len(r.fds) > 1:
		return -1, errors.New("more than one came")
	case len(r.fds) == 0:
		return -1, errors.New("none came with it")
	}
	fd := r.fds[0]
	r.fds = nil
	return fd, nil
}

func (r *rightsReader) close() {
	for _, fd := range r.fds {
		syscall.Close(fd)
	}
}
