package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// natsOptions are those of every service's connection: it never gives up, and
// what is published while it is down fails at once instead of being replayed
// later.
func natsOptions(c *Config, name string, log zerolog.Logger) []nats.Option {
	o := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1),
		events.WriteTogether,
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(3),
		nats.Timeout(5 * time.Second),
		nats.DrainTimeout(25 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.PermissionErrOnSubscribe(true),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn().Err(err).Msg("nats disconnected")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info().Str("url", nc.ConnectedUrlRedacted()).Msg("nats connected") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn().Err(err).Msg("nats error") }),
	}
	if c.NATSCreds != "" {
		o = append(o, nats.UserCredentials(c.NATSCreds))
	}
	return o
}

// connectNATS connects to the configured servers; it waits until they answer
// or ctx ends.
func connectNATS(ctx context.Context, c *Config, name string, log zerolog.Logger) (*nats.Conn, error) {
	nc, err := nats.Connect(c.NATS, natsOptions(c, name, log)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w; check --nats", redact(c.NATS), err)
	}
	for said := false; !nc.IsConnected(); said = true {
		if !said {
			log.Warn().Str("url", redact(c.NATS)).Msg("waiting for nats")
		}
		select {
		case <-ctx.Done():
			nc.Close()
			return nil, fmt.Errorf("connect to NATS at %s: %w", redact(c.NATS), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nc, nil
}

// drainNATS lets what was received be answered before the connection closes.
func drainNATS(nc *nats.Conn) error {
	if err := nc.Drain(); err != nil {
		if errors.Is(err, nats.ErrConnectionClosed) {
			return nil
		}
		nc.Close()
		return nil // it was not connected: there is nothing to drain
	}
	for limit := time.Now().Add(30 * time.Second); !nc.IsClosed(); {
		if time.Now().After(limit) {
			nc.Close()
			return errors.New("nats connection did not drain in time")
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// embeddedMaxPayload is the largest message of the embedded server.
const embeddedMaxPayload = 8 << 20

// embeddedMaxPending is what may wait for one connection before the embedded server
// cuts it: deploy/nats/server.conf says why.
const embeddedMaxPending = 256 << 20

// checkListen refuses an address of the embedded server that would be open to
// others.
func checkListen(c *Config) error {
	if c.NATSListen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.NATSListen)
	if err != nil {
		return fmt.Errorf("%w: --nats-listen %s: %w; give host:port", engine.ErrInvalid, c.NATSListen, err)
	}
	if !loopback(host) && !c.Insecure {
		return fmt.Errorf("%w: --nats-listen %s is not a loopback address and the embedded server has no authentication; listen on 127.0.0.1, or say --insecure if the network is yours alone", engine.ErrInvalid, c.NATSListen)
	}
	return nil
}

// startNATS starts the embedded server with JetStream.
func startNATS(c *Config, log zerolog.Logger) (*server.Server, error) {
	o := &server.Options{
		ServerName: "lake", JetStream: true, StoreDir: filepath.Join(c.Data, "nats"),
		JetStreamMaxStore: 20 << 30, JetStreamMaxMemory: 256 << 20,
		SyncAlways: true, // the streams that can be rebuilt opt out of it one by one
		MaxPayload: embeddedMaxPayload, MaxPending: embeddedMaxPending, NoSigs: true, DisableJetStreamBanner: true, DontListen: true,
	}
	if c.NATSListen != "" {
		host, port, err := net.SplitHostPort(c.NATSListen)
		if err != nil {
			return nil, err // checkListen has said it better
		}
		o.DontListen = false
		o.Host = host
		if o.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("%w: --nats-listen %s: the port is not a number", engine.ErrInvalid, c.NATSListen)
		}
		if o.Port == 0 {
			o.Port = server.RANDOM_PORT
		}
		// The server ends the process when it cannot listen: find out first.
		if o.Port > 0 {
			l, err := net.Listen("tcp", c.NATSListen)
			if err != nil {
				return nil, fmt.Errorf("%w: --nats-listen %s: %w; choose another port, or stop what listens there", engine.ErrUnavailable, c.NATSListen, err)
			}
			_ = l.Close()
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	s.SetLoggerV2(natsLog{log.With().Str("part", "nats-server").Logger()}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded NATS did not start in 10 s; its log says why")
	}
	return s, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// natsLog carries the embedded server's log.
type natsLog struct{ log zerolog.Logger }

func (l natsLog) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l natsLog) Fatalf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l natsLog) Errorf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debug().Msgf(format, v...) }
func (l natsLog) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
