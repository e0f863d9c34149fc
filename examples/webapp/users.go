package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
)

// users keeps a client for each user who was active lately. Any replica can make them again from the
// store.
type users struct {
	newClient func(id string) *mcpclient.Client
	idle      time.Duration
	log       *slog.Logger
	stop      context.CancelFunc
	sweeper   sync.WaitGroup

	mu sync.Mutex
	m  map[string]*user
}

// A user is a client and, from the first request on, its session.
type user struct {
	client *mcpclient.Client

	active int       // requests under way; guarded by users.mu
	seen   time.Time // when the last request ended; guarded by users.mu

	mu      sync.Mutex
	session *mcp.ClientSession // nil: not connected
}

func newUsers(newClient func(string) *mcpclient.Client, idle time.Duration, log *slog.Logger) *users {
	ctx, stop := context.WithCancel(context.Background())
	us := &users{newClient: newClient, idle: idle, log: log, stop: stop, m: make(map[string]*user)}
	us.sweeper.Go(func() {
		tick := time.NewTicker(idle / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				us.sweep()
			case <-ctx.Done():
				return
			}
		}
	})
	return us
}

// enter returns the user of an ID for one request, which must end with leave.
func (us *users) enter(id string) *user {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.m[id]
	if u == nil {
		u = &user{client: us.newClient(id)}
		us.m[id] = u
	}
	u.active++
	return u
}

func (us *users) leave(u *user) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u.active--
	u.seen = time.Now()
}

// sweep closes the clients of users who have been idle. They stay signed in.
func (us *users) sweep() {
	var gone []*user
	us.mu.Lock()
	for id, u := range us.m {
		if u.active == 0 && time.Since(u.seen) >= us.idle {
			delete(us.m, id)
			gone = append(gone, u)
		}
	}
	us.mu.Unlock()
	for _, u := range gone {
		if err := u.close(); err != nil {
			us.log.Error("close an idle user's client", "error", err)
		}
	}
}

// logout ends a user's access, also for requests that are under way.
func (us *users) logout(ctx context.Context, id string) (*mcpclient.LogoutResult, error) {
	u := us.enter(id)
	defer us.leave(u)
	done, err := u.client.Logout(ctx)
	if err != nil {
		return nil, err
	}
	us.mu.Lock()
	if us.m[id] == u {
		delete(us.m, id)
	}
	us.mu.Unlock()
	return done, u.close()
}

// Close closes all clients and waits for refreshes under way: if a renewed token is not saved, its
// user has to sign in again.
func (us *users) Close() error {
	us.stop()
	us.sweeper.Wait()
	us.mu.Lock()
	defer us.mu.Unlock()
	var wg sync.WaitGroup
	errs := make(chan error, len(us.m))
	for _, u := range us.m {
		wg.Go(func() { errs <- u.close() })
	}
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	clear(us.m)
	return all
}

// connected returns the user's session, which all requests share.
func (u *user) connected(ctx context.Context) (*mcp.ClientSession, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session != nil {
		return u.session, nil
	}
	session, err := u.client.Connect(ctx)
	if err != nil {
		return nil, err
	}
	u.session = session
	go func() {
		_ = session.Wait() // the call that failed has the error
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.session == session {
			u.session = nil // the next request connects again
		}
	}()
	return session, nil
}

func (u *user) close() error {
	u.mu.Lock()
	session := u.session
	u.mu.Unlock()
	if session != nil {
		_ = session.Close() // the server may be gone
	}
	return u.client.Close()
}
