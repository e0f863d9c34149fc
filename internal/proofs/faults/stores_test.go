package faults

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/godbus/dbus/v5"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// everything is what fails alike in all stores: nothing can be read and nothing written.
func everything(on []*storeFault, cause string) []saveDecision {
	unavailable := "step 8, " + cause + "`tokenstore.ErrUnavailable`"
	return []saveDecision{
		{atStart, on, unavailable, 0, asItWas, goesOn},
		{inLife, on, "none", 0, asItWas, goesOn},
		{atRefresh, on, unavailable, 0, asItWas, goesOn},
		{atSave, on, "none", 1, "renewed", nextGoesOn},
		{atLogin, on, "step 6, " + cause + "`tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		{atRegistration, on, "step 3, " + cause + "`tokenstore.ErrUnavailable`", 1, asItWas, goesOn},
		{atLogout, on, "step 6, " + cause + "`tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		{atRevocation, on, "step 6, " + cause + "`tokenstore.ErrUnavailable`", 2, asItWas, forgotten},
	}
}

// unsaved is what the server has issued and nobody keeps.
func unsaved(on []*storeFault, cause string) []saveDecision {
	return []saveDecision{
		{atSaveForGood, on, "step 8, `mcpclient.ErrNotSaved`, " + cause, 1, "marked as pending", nextLost},
		{atExchange, on, "step 6, `mcpclient.ErrNotSaved`, " + cause, 1, registered, goesOn},
	}
}

// momentary is what is over while the save is tried again.
func momentary(on []*storeFault) []saveDecision {
	return []saveDecision{
		{atSaveForAMoment, on, "none", 1, "renewed", goesOn},
		{atExchangeForAMoment, on, "none", 1, signedIn, goesOn},
	}
}

// unwritable is what can be read and not be written.
func unwritable(on []*storeFault, cause string) []saveDecision {
	return []saveDecision{
		{atStart, on, "none", 0, asItWas, goesOn},
		{atRefresh, on, "step 8, `*refresh.RetryError`, " + cause + "`tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		{atSave, on, "none", 1, "renewed", nextGoesOn},
		{atSaveForGood, on, "step 8, `mcpclient.ErrNotSaved`, " + cause + "`tokenstore.ErrUnavailable`", 1, "marked as pending", nextLost},
		{atLogin, on, "step 3, " + cause + "`tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		{atExchange, on, "step 6, `mcpclient.ErrNotSaved`, " + cause + "`tokenstore.ErrUnavailable`", 1, registered, goesOn},
	}
}

// damaged is what is there and cannot be read.
func damaged(on ...*storeFault) []saveDecision {
	return []saveDecision{
		{atStart, on, "step 8, `tokenstore.ErrCorrupt`", 0, unreadable, mended},
		{inLife, on[:1], "none", 0, unreadable, mended},
		{atLogin, on, "none", 1, signedIn, goesOn},
		{atLogout, on[:1], "none", 0, forgotten, forgotten},
	}
}

// waiting is a lock that another process does not give back in time.
func waiting() []saveDecision {
	on := []*storeFault{locked}
	return []saveDecision{
		{atStart, on, "none", 0, asItWas, goesOn},
		{atRefresh, on, "step 8, `*refresh.RetryError`, `*tokenstore.LockTimeoutError`", 0, asItWas, goesOn},
		{atRefresh, []*storeFault{loggingOut}, "step 4, `mcpclient.ErrLoginRequired`", 0, forgotten, loggedOut},
		{atLogout, on, "step 6, `*tokenstore.LockTimeoutError`", 0, asItWas, goesOn},
	}
}

func itemName(key tokenstore.Key) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{string(key)}))
	return hex.EncodeToString(sum[:16])
}

// keys are those of a case's records.
var keys = []tokenstore.Key{
	tokenstore.GrantKey(serverURL, ""), registrationKey,
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// The troubles of a File.
var (
	noFolder = &storeFault{name: "a file is where the folder was",
		begin: func(s *storeEnv) {
			must(s.t, os.Rename(s.dir, s.dir+".away"))
			must(s.t, os.WriteFile(s.dir, nil, 0o600))
		},
		end: func(s *storeEnv) {
			must(s.t, os.Remove(s.dir))
			must(s.t, os.Rename(s.dir+".away", s.dir))
		},
	}
	notMounted = &storeFault{name: "the folder is not there, as if not mounted",
		begin: func(s *storeEnv) { must(s.t, os.Rename(s.dir, s.dir+".away")) },
		end: func(s *storeEnv) {
			must(s.t, os.RemoveAll(s.dir))
			must(s.t, os.Rename(s.dir+".away", s.dir))
		},
	}
	inTheWay = &storeFault{name: "no file can be written",
		begin: func(s *storeEnv) {
			for _, key := range keys {
				for _, e := range []tokenstore.Entry{tokenstore.EntryRecord, tokenstore.EntryMark} {
					must(s.t, os.MkdirAll(filepath.Join(s.dir, itemName(key)+"."+e.String()+".age.tmp", "in the way"), 0o700))
				}
			}
		},
		end: func(s *storeEnv) {
			found, _ := filepath.Glob(filepath.Join(s.dir, "*.tmp"))
			for _, path := range found {
				must(s.t, os.RemoveAll(path))
			}
		},
	}
	onceInTheWay = &storeFault{name: inTheWay.name, begin: func(s *storeEnv) {
		inTheWay.begin(s)
		time.AfterFunc(blip, func() { inTheWay.end(s) })
	}}
	markStays = &storeFault{name: "its file cannot be removed",
		begin: func(s *storeEnv) {
			path := filepath.Join(s.dir, itemName(keys[0])+".mark.age")
			must(s.t, os.Rename(path, path+".away"))
			must(s.t, os.MkdirAll(filepath.Join(path, "in the way"), 0o700))
		},
		end: func(s *storeEnv) {
			path := filepath.Join(s.dir, itemName(keys[0])+".mark.age")
			must(s.t, os.RemoveAll(path))
			must(s.t, os.Rename(path+".away", path))
		},
	}
	garbageFile = fileTrouble("the file holds garbage", func(*age.X25519Identity, []byte) []byte { return []byte("garbage") })
	cutFile     = fileTrouble("the file is cut off", func(_ *age.X25519Identity, sealed []byte) []byte { return sealed[:len(sealed)/2] })
	strangeFile = fileTrouble("the file is sealed with another key", func(_ *age.X25519Identity, sealed []byte) []byte {
		other, _ := age.GenerateX25519Identity()
		return sealFile(other, []byte("astravue-mcp"))
	})
	newerFile = fileTrouble("the record is of a newer version", func(identity *age.X25519Identity, sealed []byte) []byte {
		r, err := age.Decrypt(bytes.NewReader(sealed), identity)
		if err != nil {
			return nil
		}
		data, _ := io.ReadAll(r)
		return sealFile(identity, bytes.Replace(data, []byte(`"schema":1`), []byte(`"schema":2`), 1))
	})
	wrongIdentity = &storeFault{name: "the identity is another one", wrong: func(s *storeEnv) {
		other, err := age.GenerateX25519Identity()
		must(s.t, err)
		s.store = &tokenstore.File{Dir: s.dir, Identity: tokenstore.NewSecret(other.String())}
	}}
	wrongPassphrase = &storeFault{name: "the folder has no passphrase", wrong: func(s *storeEnv) {
		s.store = &tokenstore.File{Dir: s.dir, Passphrase: func(context.Context, bool) (tokenstore.Secret, error) {
			return tokenstore.NewSecret("wrong"), nil
		}}
	}}
)

func sealFile(identity *age.X25519Identity, data []byte) []byte {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, identity.Recipient())
	if err != nil {
		return nil
	}
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func fileTrouble(name string, change func(*age.X25519Identity, []byte) []byte) *storeFault {
	return &storeFault{name: name, begin: func(s *storeEnv) {
		path := filepath.Join(s.dir, itemName(keys[0])+".record.age")
		sealed, err := os.ReadFile(path)
		must(s.t, err)
		identity, err := age.ParseX25519Identity(s.store.(*tokenstore.File).Identity.Reveal())
		must(s.t, err)
		must(s.t, os.WriteFile(path, change(identity, sealed), 0o600))
	}}
}

func saveFileList(t *testing.T, s *suite) string {
	open := func(t *testing.T) *storeEnv {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "store")
		file := func() tokenstore.Store {
			return &tokenstore.File{Dir: dir, Identity: tokenstore.NewSecret(identity.String())}
		}
		return &storeEnv{t: t, store: file(), other: file(), again: file, dir: dir}
	}
	decisions := everything([]*storeFault{noFolder}, "")
	decisions = append(decisions, saveDecision{atStart, []*storeFault{notMounted}, "step 4, `mcpclient.ErrLoginRequired`", 0, asItWas, goesOn})
	decisions = append(decisions, unsaved([]*storeFault{noFolder}, "`tokenstore.ErrUnavailable`")...)
	decisions = append(decisions, unwritable([]*storeFault{inTheWay}, "")...)
	decisions = append(decisions, momentary([]*storeFault{onceInTheWay})...)
	decisions = append(decisions, saveDecision{atClear, []*storeFault{markStays}, "none", 1, "renewed", nextGoesOn})
	decisions = append(decisions, damaged(garbageFile, cutFile, strangeFile, newerFile)...)
	wrong := []*storeFault{wrongIdentity, wrongPassphrase}
	decisions = append(decisions,
		saveDecision{atStart, wrong, "step 8, `tokenstore.ErrWrongIdentity`", 0, asItWas, nextGoesOn},
		saveDecision{atLogin, wrong, "step 6, `tokenstore.ErrWrongIdentity`", 0, asItWas, nextGoesOn},
		saveDecision{atLogout, wrong, "step 6, `tokenstore.ErrWrongIdentity`", 0, asItWas, nextGoesOn},
	)
	decisions = append(decisions, waiting()...)
	decisions = append(decisions,
		saveDecision{atExchange, []*storeFault{locked}, "step 6, `mcpclient.ErrNotSaved`, `*tokenstore.LockTimeoutError`", 1, registered, goesOn})
	return s.saves(t, open, nil, decisions)
}

// A relay leads from a Unix socket to a service, and can be cut or held up. A port that nobody
// listens at would soon be somebody else's.
type relay struct {
	t            *testing.T
	path         string // where it begins
	network, far string // where it ends

	mu       sync.Mutex
	listener net.Listener // nil: it is cut
	conns    []net.Conn
	held     chan struct{} // not nil: nothing passes until it is closed
}

func newRelay(t *testing.T, network, far string) *relay {
	dir, err := os.MkdirTemp("", "line") // short, as the path of a socket must be
	if err != nil {
		t.Fatal(err)
	}
	l := &relay{t: t, path: filepath.Join(dir, "socket"), network: network, far: far}
	l.listen()
	t.Cleanup(func() {
		l.resume()
		l.cut()
		_ = os.RemoveAll(dir)
	})
	return l
}

func (l *relay) listen() {
	_ = os.Remove(l.path)
	listener, err := net.Listen("unix", l.path)
	if err != nil {
		l.t.Error(err)
		return
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // who comes is refused
	l.listener = listener
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(l.network, l.far)
			if err != nil {
				_ = near.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, near, far)
			l.mu.Unlock()
			go l.pass(far, near)
			go l.pass(near, far)
		}
	}()
}

func (l *relay) pass(to, from net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		held := l.held
		l.mu.Unlock()
		if held != nil {
			<-held
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// cut ends all connections, and refuses new ones.
func (l *relay) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		_ = l.listener.Close()
		l.listener = nil
	}
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// stall holds up everything that comes.
func (l *relay) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = make(chan struct{})
}

func (l *relay) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		close(l.held)
		l.held = nil
	}
	if l.listener == nil {
		l.listen()
	}
}

// The troubles of what is behind a line.
var (
	cutOff = &storeFault{name: "nobody listens",
		begin: func(s *storeEnv) {
			s.together(0, func() {
				s.line.cut()
				time.Sleep(100 * time.Millisecond) // it is noticed
			})
		},
		end: func(s *storeEnv) { s.together(1, s.line.resume) },
	}
	stalls = &storeFault{name: "nothing is answered",
		wrong: (*storeEnv).hurry,
		begin: func(s *storeEnv) { s.together(0, s.line.stall) },
		end:   func(s *storeEnv) { s.together(1, s.line.resume) },
	}
	onceCutOff = &storeFault{name: cutOff.name, begin: func(s *storeEnv) {
		s.together(0, func() {
			s.line.cut()
			time.AfterFunc(blip, s.line.resume)
		})
	}}
	goesAway = &storeFault{name: "who listens ends amid a call",
		begin: func(s *storeEnv) {
			s.together(0, func() {
				s.line.stall()
				time.AfterFunc(blip/2, s.line.cut)
			})
		},
		end: func(s *storeEnv) { s.together(1, s.line.resume) },
	}
	onceStalls = &storeFault{name: stalls.name, begin: func(s *storeEnv) {
		s.together(0, func() {
			s.line.stall()
			time.AfterFunc(blip, s.line.resume)
		})
	}}
)

// The troubles of a Keychain.
var (
	noLockFolder = &storeFault{name: "the lock folder cannot be made",
		begin: func(s *storeEnv) {
			must(s.t, os.RemoveAll(s.dir))
			must(s.t, os.WriteFile(s.dir, nil, 0o600))
		},
		end: func(s *storeEnv) { must(s.t, os.Remove(s.dir)) },
	}
	garbageItem = itemTrouble("the item holds garbage", func(string) string { return "garbage" })
	newerItem   = itemTrouble("the item is of a newer version", func(head string) string { return strings.Replace(head, `"v":1`, `"v":2`, 1) })
	otherItem   = itemTrouble("the item names parts that are not there", func(head string) string {
		before, after, _ := strings.Cut(head, `"id":"`)
		_, after, _ = strings.Cut(after, `"`)
		return before + `"id":"` + rand.Text() + `"` + after
	})
)

func itemTrouble(name string, change func(string) string) *storeFault {
	return &storeFault{name: name, begin: func(s *storeEnv) {
		must(s.t, changeItem(s.store.(*tokenstore.Keychain).Service, itemName(keys[0]), change))
	}}
}

// A secret is what the Secret Service keeps in an item.
type secret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

func changeItem(service, name string, change func(string) string) error {
	const secrets = "org.freedesktop.secrets"
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer bus.Close()
	var none dbus.Variant
	var session dbus.ObjectPath
	root := bus.Object(secrets, "/org/freedesktop/secrets")
	if err := root.Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&none, &session); err != nil {
		return err
	}
	var found, shut []dbus.ObjectPath
	attributes := map[string]string{"service": service, "username": name}
	if err := root.Call("org.freedesktop.Secret.Service.SearchItems", 0, attributes).Store(&found, &shut); err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d items", len(found))
	}
	var s secret
	item := bus.Object(secrets, found[0])
	if err := item.Call("org.freedesktop.Secret.Item.GetSecret", 0, session).Store(&s); err != nil {
		return err
	}
	s.Value = []byte(change(string(s.Value)))
	return item.Call("org.freedesktop.Secret.Item.SetSecret", 0, s).Err
}

func saveKeychainList(t *testing.T, s *suite) string {
	testenv.SecretService(t)
	const bus = "DBUS_SESSION_BUS_ADDRESS"
	address, _, _ := strings.Cut(os.Getenv(bus), ",")
	socket, ok := strings.CutPrefix(address, "unix:path=")
	if !ok {
		socket = "@" + strings.TrimPrefix(address, "unix:abstract=")
	}
	l := newRelay(t, "unix", socket)
	t.Setenv(bus, "unix:path="+l.path)

	open := func(t *testing.T) *storeEnv {
		dir, service := filepath.Join(t.TempDir(), "locks"), "astravue-mcp test "+rand.Text()
		keychain := func() *tokenstore.Keychain {
			return &tokenstore.Keychain{Service: service, LockDir: dir, CallTimeout: patience / 3}
		}
		return &storeEnv{t: t, store: keychain(), other: keychain(), again: func() tokenstore.Store { return keychain() }, dir: dir, line: l}
	}
	prompts := *stalls
	prompts.name = "a prompt that nobody answers"
	silent := &prompts
	onceSilent := &storeFault{name: silent.name, begin: onceStalls.begin}
	decisions := slices.Concat(
		everything([]*storeFault{cutOff}, "`syscall.ECONNREFUSED`, "), everything([]*storeFault{silent}, ""),
		unsaved([]*storeFault{cutOff}, "`syscall.ECONNREFUSED`, `tokenstore.ErrUnavailable`"),
		// The lock of a call that is not answered is kept, against our own next try too.
		unsaved([]*storeFault{silent}, "`*tokenstore.LockTimeoutError`"),
		momentary([]*storeFault{onceCutOff, onceSilent}))
	decisions = append(decisions, saveDecision{atStart, []*storeFault{goesAway}, "step 8, `tokenstore.ErrUnavailable`", 0, asItWas, goesOn})
	lockless := []*storeFault{noLockFolder}
	decisions = append(decisions,
		saveDecision{atStart, lockless, "none", 0, asItWas, goesOn},
		saveDecision{atRefresh, lockless, "step 8, `*refresh.RetryError`, `tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		saveDecision{atLogin, lockless, "step 6, `tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		saveDecision{atLogout, lockless, "step 6, `tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
	)
	decisions = append(decisions, damaged(garbageItem, newerItem, otherItem)...)
	decisions = append(decisions, waiting()...)
	return s.saves(t, open, func(tr *storeFault) bool {
		return tr == cutOff || tr == silent || tr == onceCutOff || tr == onceSilent || tr == goesAway
	}, decisions)
}
