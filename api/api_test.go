package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A reader can walk every list without asking whether it is there.
func TestListsAreNeverNull(t *testing.T) {
	for _, r := range Routes() {
		b, err := json.Marshal(r.Response)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Response.(Entries); !ok && bytes.Contains(b, []byte("null")) {
			t.Errorf("%s: zero answer has a null: %s", r.Pattern, b)
		}
		if bytes.Contains(b, []byte("0001-01-01")) && r.Pattern != RouteStatus && r.Pattern != RouteEvents {
			t.Errorf("%s: a time that is not known is there: %s", r.Pattern, b)
		}
	}
	b, err := json.Marshal(List[string]{"a", "b"})
	if err != nil || string(b) != `["a","b"]` {
		t.Errorf("list of two is %s, %v", b, err)
	}
}

// A list must leave < and & to the encoder around it.
func TestListsEscapeAsTheEncoderSays(t *testing.T) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(Paths{Manifests: List[string]{"/a&b"}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `["/a&b"]`) {
		t.Errorf("got %s", b.String())
	}
}

func TestErrorKeepsItsCauseOnThisSideOnly(t *testing.T) {
	err := Errorf(KindKernel, "map %q: create: %w", "hits", os.ErrPermission).WithHint("run as %s", "root")
	if !errors.Is(err, os.ErrPermission) {
		t.Error("the cause is lost")
	}
	b, _ := json.Marshal(err)
	if got, want := string(b), `{"kind":"kernel","message":"map \"hits\": create: permission denied","hint":"run as root"}`; got != want {
		t.Errorf("on the wire: %s, want %s", got, want)
	}
}

func TestExitCodes(t *testing.T) {
	want := map[Kind]int{
		KindBadRequest: 2, KindProtocol: 1, KindNotFound: 1, KindDenied: 3, KindSignature: 4, KindManifest: 1,
		KindObject: 1, KindKernel: 1, KindConflict: 1, KindLimit: 1, KindUnavailable: 5, KindInternal: 1,
	}
	got := make(map[Kind]int)
	for _, k := range Kinds() {
		got[k] = k.ExitCode()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if Kind("from a newer daemon").ExitCode() != 1 {
		t.Error("an unknown kind is not a failure")
	}
}

func TestEventsRoundTrip(t *testing.T) {
	events := []Event{
		{Seq: 1, Time: time.Unix(1, 0).UTC(), Kind: EventStarted, Message: "a line\nand RS \x1e"},
		{Seq: 2, Time: time.Unix(2, 5).UTC(), Kind: EventLoaded, Collection: "c", Message: "m", Hint: "h", Caller: &Caller{UID: 1, GID: 2, PID: 3}},
	}
	var stream bytes.Buffer
	for _, e := range events {
		if err := WriteEvent(&stream, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readEvents(stream.String())
	if err != io.EOF {
		t.Errorf("end is %v", err)
	}
	if diff := cmp.Diff(events, got); diff != "" {
		t.Error(diff)
	}
}

func TestEventStreamErrors(t *testing.T) {
	long := "\x1e{\"message\":\"" + strings.Repeat("a", MaxEventBytes) + "\"}\n"
	for _, test := range []struct {
		name, stream string
		events       int
		says         string
	}{
		{"empty", "", 0, "EOF"},
		{"signs of life", "\x1e\n\x1e \n\x1e{\"seq\":1}\n\x1e\n", 1, "EOF"},
		{"cut", "\x1e{\"seq\":1}\n\x1e{\"seq\":2}", 1, "unexpected EOF"},
		{"no RS", "\x1e{\"seq\":1}\n{\"seq\":2}\n", 1, "RS"},
		{"not JSON", "\x1e{\"seq\":1}\n\x1e{seq}\n", 1, "event: invalid character"},
		{"too long", "\x1e{\"seq\":1}\n" + long, 1, "longer than 65536"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readEvents(test.stream)
			if len(got) != test.events || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%d events, then %v; want %d, then …%s…", len(got), err, test.events, test.says)
			}
		})
	}
}

func FuzzEventStream(f *testing.F) {
	f.Add("\x1e{\"seq\":1,\"time\":\"2026-01-02T03:04:05Z\"}\n\x1e\n\x1e{\"seq\":2}\n")
	f.Add("\x1e{\"seq\":1}\n\x1e{\"se")
	f.Add("{}\n")
	f.Fuzz(func(t *testing.T, stream string) {
		events, err := readEvents(stream)
		if err == nil {
			t.Fatal("a stream without an end")
		}
		var again bytes.Buffer
		for _, e := range events {
			if err := WriteEvent(&again, e); err != nil {
				t.Skip(err) // a year beyond 9999 can be read and not written
			}
		}
		got, _ := readEvents(again.String())
		if diff := cmp.Diff(events, got); diff != "" {
			t.Errorf("events written again differ:\n%s", diff)
		}
	})
}

func readEvents(stream string) (events []Event, err error) {
	r := newEventReader(strings.NewReader(stream))
	for {
		e, err := r.Next()
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}
