package tokenstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

// An identity of these tests alone.
var identity = tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q")

type damagedFile struct{ *tokenstore.File }

func (f damagedFile) Damage(t testing.TB, _ tokenstore.Key) {
	for _, path := range records(t, f.Dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()-1); err != nil {
			t.Fatal(err)
		}
	}
}

func records(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.record.age"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no record in %s: %v", dir, err)
	}
	return paths
}

// files opens the store of dir by each of the ways to open it.
var files = map[string]func(dir string) *tokenstore.File{
	"identity": func(dir string) *tokenstore.File { return &tokenstore.File{Dir: dir, Identity: identity} },
	"passphrase": func(dir string) *tokenstore.File {
		return withPassphrase(dir, func(context.Context, bool) (string, error) { return "correct horse", nil })
	},
}

func TestFile(t *testing.T) {
	t.Parallel()
	for name, open := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for locks
			storetest.Run(t, func(t testing.TB) tokenstore.Store { return damagedFile{open(t.TempDir())} })
		})
	}
}

// No call of a File is given up: what it has told the file system is done when
// it returns, however its context ends.
func TestFileProcesses(t *testing.T) {
	t.Parallel()
	for name, open := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for processes
			testProcesses(t, "file, "+name, storetest.Processes{
				Open: func(_ testing.TB, dir string) tokenstore.Store { return open(dir) },
				Entries: func(t testing.TB, dir string) []string {
					return slices.Collect(maps.Keys(tree(t, dir)))
				},
			})
		})
	}
}

func newIdentity(t testing.TB) tokenstore.Secret {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return tokenstore.NewSecret(id.String())
}

// withPassphrase is a File that is asked for its passphrase.
func withPassphrase(dir string, ask func(ctx context.Context, create bool) (string, error)) *tokenstore.File {
	f := &tokenstore.File{Dir: dir, Passphrase: func(ctx context.Context, create bool) (tokenstore.Secret, error) {
		s, err := ask(ctx, create)
		return tokenstore.NewSecret(s), err
	}}
	f.SetScryptWorkFactor(1)
	return f
}

// tree returns the content of all files of a folder but locks.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") || strings.HasSuffix(path, ".holder") {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFilePassphraseIsAskedOnce(t *testing.T) {
	dir := t.TempDir()
	var asked, created atomic.Int32
	ask := func(_ context.Context, create bool) (string, error) {
		asked.Add(1)
		if create {
			created.Add(1)
		}
		return "correct horse", nil
	}
	f := withPassphrase(dir, ask)
	if _, err := f.Get(t.Context(), work); !errors.Is(err, tokenstore.ErrNotFound) || asked.Load() != 0 {
		t.Errorf("asked %d times for nothing: %v", asked.Load(), err)
	}
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() { mustSave(t, f, tokenstore.GrantKey("server", fmt.Sprint(i)), "token") })
	}
	g.Wait()
	if asked.Load() != 1 || created.Load() != 1 {
		t.Errorf("asked %d times, %d times to create, want once", asked.Load(), created.Load())
	}
	later := withPassphrase(dir, ask)
	wantToken(t, later, tokenstore.GrantKey("server", "3"), "token")
	wantToken(t, later, tokenstore.GrantKey("server", "4"), "token")
	if asked.Load() != 2 || created.Load() != 1 {
		t.Errorf("asked %d times, %d times to create, want 2 and 1", asked.Load(), created.Load())
	}
}

// Each File stands for a process: they share the folder and nothing else.
func TestFilePassphraseMakesOneIdentity(t *testing.T) {
	dir := t.TempDir()
	var created atomic.Int32
	ask := func(_ context.Context, create bool) (string, error) {
		if create {
			created.Add(1)
		}
		return "correct horse", nil
	}
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() { mustSave(t, withPassphrase(dir, ask), tokenstore.GrantKey("server", fmt.Sprint(i)), "token") })
	}
	g.Wait()
	if created.Load() != 1 {
		t.Errorf("%d identities were made", created.Load())
	}
	f := withPassphrase(dir, ask)
	for i := range 8 {
		wantToken(t, f, tokenstore.GrantKey("server", fmt.Sprint(i)), "token")
	}
}

func TestFileWrongIdentityLosesNothing(t *testing.T) {
	errMine := errors.New("mine")
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	say := func(s string, err error) func(context.Context, bool) (string, error) {
		return func(context.Context, bool) (string, error) { return s, err }
	}
	inFile := func(text string) func(string) *tokenstore.File {
		return func(dir string) *tokenstore.File {
			path := filepath.Join(t.TempDir(), "identity")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return &tokenstore.File{Dir: dir, IdentityFile: path}
		}
	}
	byIdentity := &tokenstore.File{Dir: t.TempDir(), Identity: identity}
	byPassphrase := withPassphrase(t.TempDir(), say("right", nil))
	mustSave(t, byIdentity, work, "token")
	mustSave(t, byPassphrase, work, "token")

	for _, test := range []struct {
		name  string
		owner *tokenstore.File
		open  func(dir string) *tokenstore.File
		want  error
	}{
		{"another identity", byIdentity, func(dir string) *tokenstore.File {
			return &tokenstore.File{Dir: dir, Identity: newIdentity(t)}
		}, tokenstore.ErrWrongIdentity},
		{"a passphrase for an identity", byIdentity, func(dir string) *tokenstore.File {
			return withPassphrase(dir, say("right", nil))
		}, tokenstore.ErrWrongIdentity},
		{"no identity", byIdentity, func(dir string) *tokenstore.File { return &tokenstore.File{Dir: dir} }, tokenstore.ErrWrongIdentity},
		{"two sources", byIdentity, func(dir string) *tokenstore.File {
			return &tokenstore.File{Dir: dir, Identity: identity, IdentityFile: "x"}
		}, tokenstore.ErrWrongIdentity},
		{"garbage", byIdentity, func(dir string) *tokenstore.File {
			return &tokenstore.File{Dir: dir, Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1GARBAGE")}
		}, tokenstore.ErrWrongIdentity},
		{"empty identity file", byIdentity, inFile(""), tokenstore.ErrWrongIdentity},
		{"garbage in the identity file", byIdentity, inFile("garbage"), tokenstore.ErrWrongIdentity},
		{"a recipient in the identity file", byIdentity, inFile("age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"), tokenstore.ErrWrongIdentity},
		{"two identities in the file", byIdentity, inFile(identity.Reveal() + "\n" + identity.Reveal() + "\n"), tokenstore.ErrWrongIdentity},
		{"an identity of another kind", byIdentity, inFile(pq.String()), tokenstore.ErrWrongIdentity},
		{"no identity file", byIdentity, func(dir string) *tokenstore.File {
			return &tokenstore.File{Dir: dir, IdentityFile: filepath.Join(dir, "nothing")}
		}, tokenstore.ErrUnavailable},
		{"wrong passphrase", byPassphrase, func(dir string) *tokenstore.File {
			return withPassphrase(dir, say("wrong", nil))
		}, tokenstore.ErrWrongIdentity},
		{"empty passphrase", byPassphrase, func(dir string) *tokenstore.File {
			return withPassphrase(dir, say("", nil))
		}, tokenstore.ErrWrongIdentity},
		{"an identity for a passphrase", byPassphrase, func(dir string) *tokenstore.File {
			return &tokenstore.File{Dir: dir, Identity: identity}
		}, tokenstore.ErrWrongIdentity},
		{"passphrase refused", byPassphrase, func(dir string) *tokenstore.File {
			return withPassphrase(dir, say("", errMine))
		}, errMine},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := test.owner.Dir
			before := tree(t, dir)
			f := test.open(dir)
			for range 2 {
				_, err := f.Get(t.Context(), work)
				wantError(t, "get", err, test.want)
				wantError(t, "save", save(t.Context(), f, work, "new"), test.want)
				if strings.Contains(fmt.Sprint(err), "AGE-SECRET-KEY") {
					t.Error("the error shows the identity")
				}
			}
			if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Error("a file has changed")
			}
			wantToken(t, test.owner, work, "token")
		})
	}
}

func TestFileAsksAgainWhenNobodyAnswered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	f := withPassphrase(t.TempDir(), func(ctx context.Context, _ bool) (string, error) {
		if asked++; asked == 1 {
			cancel()
			return "", ctx.Err()
		}
		return "right", nil
	})
	if err := save(ctx, f, work, "token"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	mustSave(t, f, work, "token")
}

func TestFileIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity")
	text := "# created: 2026-01-02\r\n# public key: age1…\r\n\r\n" + identity.Reveal() + "\r\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mustSave(t, &tokenstore.File{Dir: dir, IdentityFile: path}, work, "token")
	wantToken(t, &tokenstore.File{Dir: dir, Identity: identity}, work, "token")
}

func TestFileDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &tokenstore.File{Dir: dir, Identity: identity}
	mustSave(t, f, home, "home")
	other, err := os.ReadFile(records(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(t.Context(), home); err != nil {
		t.Fatal(err)
	}
	mustSave(t, f, work, "token")
	path := records(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{
		"empty":                 nil,
		"another key's":         other,
		"plain text":            []byte(`{"schema":1,"generation":"G","grant":{"access_token":"mine"}}`),
		"zeros":                 make([]byte, len(whole)),
		"followed by more":      append(bytes.Clone(whole), 0),
		"sealed to another one": sealedTo(t, newIdentity(t), "anything"),
		"sealed, not a record":  sealedTo(t, identity, fmt.Sprintf("astravue-mcp record %q\n{", work)),
		"from the future":       sealedTo(t, identity, fmt.Sprintf("astravue-mcp record %q\n", work)+`{"schema":2,"generation":"G","grant":{}}`),
		"a mark":                sealedTo(t, identity, fmt.Sprintf("astravue-mcp mark %q\n{}", work)),
		"huge":                  make([]byte, 5<<20),
	}
	for i := range whole {
		damaged[fmt.Sprint("cut off at ", i)] = whole[:i]
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		damaged[fmt.Sprint("altered at ", i)] = flipped
	}
	for name, data := range damaged {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := f.Get(t.Context(), work)
		wantError(t, name, err, tokenstore.ErrCorrupt)
		if left, err := os.ReadFile(path); !bytes.Equal(left, data) {
			t.Errorf("%s: reading has changed the file: %v", name, err)
		}
	}
	mustSave(t, f, work, "new")
	wantToken(t, f, work, "new")
}

func sealedTo(t testing.TB, identity tokenstore.Secret, text string) []byte {
	t.Helper()
	id, err := age.ParseX25519Identity(identity.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFileSealedIdentityDamaged(t *testing.T) {
	ask := func(context.Context, bool) (string, error) { return "right", nil }
	for name, damage := range map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"garbage": func([]byte) []byte { return []byte("garbage") },
		"cut off": func(b []byte) []byte { return b[:len(b)-1] },
		"altered": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		dir := t.TempDir()
		mustSave(t, withPassphrase(dir, ask), work, "token")
		path := filepath.Join(dir, "identity.age")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(bytes.Clone(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = withPassphrase(dir, ask).Get(t.Context(), work)
		wantError(t, name, err, tokenstore.ErrCorrupt)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		wantToken(t, withPassphrase(dir, ask), work, "token")
	}
}

func TestFileKeepsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	f := withPassphrase(dir, func(context.Context, bool) (string, error) { return "the passphrase", nil })
	mustSave(t, f, work, "the access token")
	if err := f.Update(t.Context(), work, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Pending: true, Generation: "the generation"})
	}); err != nil {
		t.Fatal(err)
	}
	for path, data := range tree(t, dir) {
		for _, s := range []string{"the ", "token", "AGE-SECRET-KEY", "example.com", "pending"} {
			if strings.Contains(path+data, s) {
				t.Errorf("%s shows %q", path, s)
			}
		}
	}
	if runtime.GOOS == "windows" {
		return // its permissions are inherited
	}
	if err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestFileWithoutAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &tokenstore.File{Dir: filepath.Join(path, "dir"), Identity: identity}
	wantError(t, "save", save(t.Context(), f, work, "token"), tokenstore.ErrUnavailable)
}
