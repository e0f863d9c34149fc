package mcpclient_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const webCallback = "http://127.0.0.1:8765/callback"

// A webApp signs its users in with a redirect of its own.
func webApp(t *testing.T, srv *sandbox.Server, store tokenstore.Store, user string) (*mcpclient.Client, *fakeBrowser) {
	t.Helper()
	return newClient(t, srv, func(c *mcpclient.Client) {
		c.Store, c.Account, c.Registration.RedirectURL, c.NonInteractive = store, user, webCallback, true
	})
}

func begin(t *testing.T, c *mcpclient.Client) (string, *mcpclient.PendingLogin) {
	t.Helper()
	address, pending, err := c.BeginLogin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address, pending
}

func TestSplitSignIn(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	key := bytes.Repeat([]byte{7}, 32)
	for _, user := range []string{"u1", "u2"} {
		c, b := webApp(t, srv, store, user)
		address, pending := begin(t, c)
		sealed, err := pending.Seal(key)
		if err != nil {
			t.Fatal(err)
		}
		back := b.visit(t, address)

		next, _ := webApp(t, srv, store, user) // another replica
		opened, err := next.OpenPendingLogin(key, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.FinishLogin(t.Context(), opened, back); err != nil {
			t.Fatal(err)
		}
		mustCall(t, connect(t, next))
		for name, p := range map[string]*mcpclient.PendingLogin{"same": opened, "first": pending} {
			if err := c.FinishLogin(t.Context(), p, back); !errors.Is(err, mcpclient.ErrPendingLogin) {
				t.Errorf("the %s one serves twice: %v", name, err)
			}
		}
		if again, err := c.OpenPendingLogin(key, sealed); err != nil {
			t.Error(err)
		} else if err := c.FinishLogin(t.Context(), again, back); !errors.Is(err, mcpclient.ErrPendingLogin) {
			t.Errorf("opened again it serves twice: %v", err)
		}
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func TestAPendingSignInServesOneOfMany(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := webApp(t, srv, &tokenstore.Memory{}, "u1")
	address, pending := begin(t, c)
	back := b.visit(t, address)
	var good atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := c.FinishLogin(t.Context(), pending, back)
			if err == nil {
				good.Add(1)
			} else if !errors.Is(err, mcpclient.ErrPendingLogin) {
				t.Errorf("FinishLogin: %v", err)
			}
		})
	}
	wg.Wait()
	if n := good.Load(); n != 1 {
		t.Errorf("it served %d times", n)
	}
	if n := steps(srv)[sandbox.StepExchange]; n != 1 {
		t.Errorf("the code was sent %d times", n)
	}
}

func TestPendingSignInsThatAreOfNoUse(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	key := bytes.Repeat([]byte{7}, 32)
	c, b := webApp(t, srv, store, "u1")
	other, _ := webApp(t, srv, store, "u2")
	address, pending := begin(t, c)
	back := b.visit(t, address)
	sealed, err := pending.Seal(key)
	if err != nil {
		t.Fatal(err)
	}

	for name, open := range map[string]func() error{
		"by another user":  func() error { _, err := other.OpenPendingLogin(key, sealed); return err },
		"with another key": func() error { _, err := c.OpenPendingLogin(bytes.Repeat([]byte{8}, 32), sealed); return err },
		"altered": func() error {
			first := "A"
			if strings.HasPrefix(sealed, first) {
				first = "B"
			}
			_, err := c.OpenPendingLogin(key, first+sealed[1:])
			return err
		},
		"cut off": func() error { _, err := c.OpenPendingLogin(key, sealed[:9]); return err },
		"empty":   func() error { _, err := c.OpenPendingLogin(key, ""); return err },
		"what the application sealed with the key": func() error {
			block, err := aes.NewCipher(key)
			if err != nil {
				return err
			}
			aead, err := cipher.NewGCMWithRandomNonce(block)
			if err != nil {
				return err
			}
			grant := tokenstore.GrantKey(srv.URL(), "u1")
			note := fmt.Sprintf(`{"id":"x","key":%q,"state":"s","verifier":"v"}`, grant)
			_, err = c.OpenPendingLogin(key, base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, []byte(note), []byte(grant))))
			return err
		},
		"not base64":        func() error { _, err := c.OpenPendingLogin(key, "%%%"); return err },
		"sealed of nothing": func() error { _, err := new(mcpclient.PendingLogin).Seal(key); return err },
		"finished by another user": func() error {
			return other.FinishLogin(t.Context(), pending, back)
		},
		"none": func() error { return c.FinishLogin(t.Context(), nil, back) },
		"zero": func() error { return c.FinishLogin(t.Context(), new(mcpclient.PendingLogin), back) },
		"after ten minutes": func() error {
			defer clock.Advance(10*time.Minute + time.Second)()
			return c.FinishLogin(t.Context(), pending, back)
		},
		"before it was begun": func() error {
			defer clock.Advance(-2 * time.Minute)()
			return c.FinishLogin(t.Context(), pending, back)
		},
	} {
		if err := open(); !errors.Is(err, mcpclient.ErrPendingLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range [][]byte{nil, key[:16], append(key, 1)} {
		if _, err := pending.Seal(k); err == nil {
			t.Errorf("a key of %d bytes is taken", len(k))
		}
		if _, err := c.OpenPendingLogin(k, sealed); err == nil {
			t.Errorf("a key of %d bytes is taken", len(k))
		}
	}
	for name, url := range map[string]string{
		"no state":       strings.Split(back, "?")[0] + "?code=x",
		"another state":  strings.NewReplacer("?state=", "?state=x", "&state=", "&state=x").Replace(back),
		"doubled state":  back + "&state=x",
		"denied for you": webCallback + "?state=guess&error=access_denied",
	} {
		if err := c.FinishLogin(t.Context(), pending, url); !errors.Is(err, authcode.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"", "\x00", webCallback + "?a=%zz"} {
		if err := c.FinishLogin(t.Context(), pending, url); err == nil {
			t.Errorf("callback %q is taken", url)
		}
	}
	// None of this has used it up.
	if err := c.FinishLogin(t.Context(), pending, back); err != nil {
		t.Errorf("FinishLogin: %v", err)
	}
}

func TestADenialUsesAPendingSignInUp(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := webApp(t, srv, &tokenstore.Memory{}, "u1")
	address, pending := begin(t, c)
	back := b.visit(t, address)
	denied := strings.Replace(back, "code=", "error=access_denied&x=", 1)
	err := c.FinishLogin(t.Context(), pending, denied)
	if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || !ae.Denied() {
		t.Errorf("FinishLogin: %v", err)
	}
	if err := c.FinishLogin(t.Context(), pending, back); !errors.Is(err, mcpclient.ErrPendingLogin) {
		t.Errorf("FinishLogin after a denial: %v", err)
	}
}

func TestSplitSignInRegistersAnewAClientThatIsGone(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	c, b := webApp(t, srv, store, "u1")
	address, waiting := begin(t, c)
	if err := srv.DeleteClient(queryOf(t, address).Get("client_id")); err != nil {
		t.Fatal(err)
	}
	next, _ := webApp(t, srv, store, "u2")
	address, pending := begin(t, next)
	if err := next.FinishLogin(t.Context(), pending, b.visit(t, address)); err != nil {
		t.Fatal(err)
	}
	back := webCallback + "?code=x&state=y"
	if err := c.FinishLogin(t.Context(), waiting, back); !errors.Is(err, mcpclient.ErrPendingLogin) {
		t.Errorf("a sign-in of the client that is gone: %v", err)
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 2 {
		t.Errorf("%d registrations", n)
	}
}

func TestBeginLoginNeedsAnAddress(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, _ := newClient(t, srv, nil)
	_, _, err := c.BeginLogin(t.Context())
	wantStep(t, err, mcpclient.StepAuthorize)
	if n := len(srv.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestPastedAddress(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, nil)
	pasted, ignored := make(chan string), make(chan error, 10)
	c.OpenBrowser = func(_ context.Context, url string) error {
		go func() {
			pasted <- "http://127.0.0.1/callback?code=x&state=guess"
			pasted <- b.visit(t, url) // the browser of another computer
		}()
		return nil
	}
	if err := c.Login(t.Context(), &mcpclient.LoginOptions{Pasted: pasted, OnIgnored: func(err error) { ignored <- err }}); err != nil {
		t.Fatal(err)
	}
	if err := <-ignored; !errors.Is(err, authcode.ErrState) {
		t.Errorf("ignored: %v", err)
	}
}
