package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
)

// Time a client has. Its connection is its own budget (limiter), so these only
// end what is dead; a large map or a long verifier run fits.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	answerTimeout = 2 * time.Minute  // from the request to the end of the answer
	eventTimeout  = 10 * time.Second // for one event
	maxHeader     = 16 << 10
)

// Serve answers the API on l until ctx ends. It owns l.
func Serve(ctx context.Context, core Core, l *net.UnixListener, log *zap.Logger) error {
	lim := newLimiter(l, func(who Peer, err error) {
		kind := api.KindDenied // nobody knows who it is
		if errors.Is(err, errTooMany) {
			kind = api.KindLimit
		}
		core.Refuse(who, "connect", api.Errorf(kind, "connection: uid %d: %w", who.UID, err))
	})
	server := &http.Server{
		Handler:           routes(core),
		ConnContext:       withPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      answerTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(log.Named("http")),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			server.Close()
		}
	}()
	err := server.Serve(lim)
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-done
	return nil
}
