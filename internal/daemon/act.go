package daemon

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// act is one thing somebody wants done, from the asking to the record of how
// it ended. Nothing changes before its intent is durable, and it always ends
// in exactly one outcome or refusal.
type act struct {
	d     *Daemon
	rec   audit.Record
	began time.Time
	done  api.EventKind // what the event says when it works
	quiet bool          // nothing changed: neither record nor event

	partial string // what of it failed, where the rest was done
}

func (d *Daemon) begin(who Peer, verb, collection string, done api.EventKind) *act {
	return &act{d: d, began: time.Now(), done: done, rec: audit.Record{
		Verb: verb, Collection: collection,
		Caller: who.recorded(),
	}}
}

// intend makes the intent durable. No record, no change; and no more of them than the
// caller is allowed, but for what ends something.
func (a *act) intend() error {
	if a.rec.Verb != verbUnload {
		if err := a.d.allowed.take(a.rec.Caller.UID, time.Now()); err != nil {
			return fmt.Errorf("%s: %w", a.rec.Verb, err)
		}
	}
	rec := a.rec
	rec.Phase = audit.Intent
	rec, err := a.d.audit.Append(rec)
	if err != nil {
		return unrecorded{err}
	}
	a.rec.Intent = rec.Seq
	return nil
}

// conclude records how it ended and returns err, joined with what kept the
// record from being written. Where there was no intent an error is a refusal.
func (a *act) conclude(err error) error {
	if a.quiet && err == nil {
		return nil
	}
	a.rec.Phase = audit.Outcome
	if a.rec.Intent == 0 {
		a.rec.Phase = audit.Refusal
	}
	a.rec.DurationUS = time.Since(a.began).Microseconds()
	a.rec.Error = a.partial
	if err != nil {
		told := asAPIError(err) // as whoever asked is told
		a.rec.Error, a.rec.Hint, a.rec.Kind = told.Message, told.Hint, string(told.Kind)
		var se *signing.Error
		if errors.As(err, &se) {
			a.rec.Verdict, a.rec.VerdictBy = string(se.Verdict), "hornetd"
			if se.Signer != "" {
				a.rec.Signer, a.rec.SignerKey = se.Signer, se.Key
			}
		}
	}
	if a.rec.Phase == audit.Refusal && !a.d.refused.first(a.rec) {
		return err // counted: neither the log nor the stream is for filling either
	}
	if _, recErr := a.d.audit.Append(a.rec); recErr != nil {
		a.d.log.Error("audit record", zap.Error(recErr))
		if _, loaded := loggedClaim(a.rec); loaded && a.d.ratchet.ahead { // on the owner's thread
			a.d.tellRatchet(a.d.setRatchet(a.d.ratchet.Ratchet))
		}
		if err == nil { // not to be taken for a refusal
			recErr = fmt.Errorf("%s is done, but its outcome is not on record: %w", a.rec.Verb, recErr)
		}
		err = errors.Join(err, unrecorded{recErr})
	}
	a.tell(err)
	return err
}

// tell logs and publishes the end of it.
func (a *act) tell(err error) {
	fields := []zap.Field{zap.String("verb", a.rec.Verb), zap.String("collection", a.rec.Collection),
		zap.Uint32("uid", a.rec.Caller.UID), zap.Int64("us", a.rec.DurationUS)}
	event := api.Event{Time: a.began, Kind: a.done, Collection: a.rec.Collection, Message: a.rec.Verb + " done",
		Caller: &api.Caller{UID: a.rec.Caller.UID, GID: a.rec.Caller.GID, PID: a.rec.Caller.PID, Unit: a.rec.Caller.Unit}}
	if a.rec.Verb == audit.VerbRepair && a.rec.Reason != "" {
		event.Message = "repaired: " + a.rec.Reason
	}
	if a.partial != "" {
		event.Message = a.rec.Verb + ": " + a.partial
	} else if a.rec.Reason != "" {
		event.Message += ": " + a.rec.Reason
	}
	if err == nil {
		a.d.log.Info(a.rec.Verb, append(fields, zap.String("failed", a.partial))...)
	} else {
		e := asAPIError(err)
		event.Kind, event.Message, event.Hint = api.EventFailed, e.Message, e.Hint
		if a.rec.Phase == audit.Refusal {
			event.Kind = api.EventRefused
		}
		a.d.log.Warn(a.rec.Verb+" "+string(event.Kind), append(fields, zap.String("kind", string(e.Kind)),
			zap.String("error", e.Message), zap.String("hint", e.Hint))...)
	}
	a.d.events.publish(event)
}

// signed notes whose signature covers the object, and who checked it.
func (a *act) signed(v signing.Verified) {
	a.rec.Object = hexDigest(v.Digest())
	a.rec.SignerKey = v.Signer().KeySHA256
	a.rec.Signer, a.rec.Format, a.rec.Covers = v.Signer().Name, v.Format(), v.Covers()
	a.rec.Verdict, a.rec.VerdictBy = string(v.Verdict()), "hornetd"
}

// loaded notes what came of it in the kernel.
func (a *act) loaded(r pinning.Record, replaced bool) {
	for _, m := range r.Maps {
		a.rec.Maps = append(a.rec.Maps, m.ID)
	}
	for _, p := range r.Programs {
		a.rec.Programs = append(a.rec.Programs, p.ID)
	}
	for _, l := range r.Links {
		a.rec.Links = append(a.rec.Links, l.ID)
	}
	if replaced {
		a.done = api.EventReplaced
	}
}
