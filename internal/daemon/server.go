package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/config"
)

const (
	eventTimeout = 10 * time.Second // for one event, or for some samples
	maxHeader    = 16 << 10
)

// Serve answers the API on l until ctx ends. It owns l.
//
// A client's connection is its own budget (limiter), so the times it has only
// end what is dead.
func Serve(ctx context.Context, core Core, l *net.UnixListener, limits config.API, log *zap.Logger) error {
	lim := newLimiter(l, limits, func(who Peer, err error) { core.Refuse(who, "connect", err) })
	told := make(chan struct{})
	go func() { defer close(told); lim.tell() }()
	defer func() { close(lim.telling); <-told }() // nobody accepts any more
	server := &http.Server{
		Handler:           routes(core, lim),
		ConnContext:       withPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: limits.HeaderTime,
		ReadTimeout:       limits.RequestTime,
		IdleTimeout:       limits.IdleTime,
		WriteTimeout:      limits.AnswerTime,
		MaxHeaderBytes:    maxHeader,

		DisableGeneralOptionsHandler: true, // there is one table of routes
		ErrorLog:                     zap.NewStdLog(log.Named("http")),
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
