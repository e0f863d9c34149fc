package attacks

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

var filesAttacks = slices.Concat(filesExposed(), filesNoFile(), filesIdentities(), filesUsers(), filesStored(), filesProcess())

const (
	anotherUser = "another user of this machine"
	folderUser  = "anybody who can write to the store's folder"
)

// What others could have written or read is not used, and the one command that the error names
// mends it.
func filesExposed() (rows []attack) {
	byIdentity := func(v *filesVictim) { v.env = []string{"ASTRAVUE_MCP_IDENTITY_FILE=" + v.path("$I")} }
	login := []string{"login", "--client-id", "x", "--client-secret-file", "secret", "--timeout", "2s"}
	for _, e := range []struct {
		id, does string
		plant    string // by a shell
		given    func(*filesVictim)
		args     []string // of the command; nil: status
		after    int      // exit status when it is mended
	}{
		{id: "folder-all-write", does: "writes to the store's folder, of mode 0777", plant: `chmod 0777 "$D"`},
		{id: "folder-group-writes", does: "writes to the store's folder, of mode 0770", plant: `chmod 0770 "$D"`},
		{id: "folder-sticky", does: "adds files to the store's folder, of mode 1777", plant: `chmod 1777 "$D"`},
		{id: "folder-write-only", does: "adds files to the store's folder, of mode 0703", plant: `chmod 0703 "$D"`},
		{id: "folder-above-all-write", does: "replaces the store's folder: the one above is 0777", plant: `chmod 0777 "$C"`},
		{id: "folder-above-group-writes", does: "replaces the store's folder: the one above is 0775", plant: `chmod 0775 "$C"`},
		{id: "folder-far-above-all-write", does: "replaces the folder two above the store's, which is in one of 0777", plant: `chmod 0777 "$B"`},
		{id: "folder-link-to-open", does: "the store's folder is a link to one that all can write to", plant: `mv "$D" "$B/real" && ln -s "$B/real" "$D" && chmod 0777 "$B/real"`},
		{id: "folder-link-relative", does: "the store's folder is a link (../real/) to one that all can write to", plant: `mv "$D" "$B/real" && ln -s ../real/ "$D" && chmod 0777 "$B/real"`},
		{id: "folder-link-into-open", does: "the store's folder is a link into a folder that all can write to", plant: `mkdir "$B/shared" && mv "$D" "$B/shared/real" && ln -s "$B/shared/real" "$D" && chmod 0777 "$B/shared"`},
		{id: "folder-link-back", does: "the way to the folder leads through a link with .. and an open folder", plant: `mkdir "$B/shared" "$B/shared/in" && mv "$C" "$B/shared/real" && ln -s shared/in/../real "$C" && chmod 0777 "$B/shared"`},
		{id: "record-all-read", does: "copies the record, of mode 0644", plant: `chmod 0644 "$R"`},
		{id: "record-group-writes", does: "replaces the record, of mode 0660", plant: `chmod 0660 "$R"`},
		{id: "record-all-write", does: "replaces the record, of mode 0606", plant: `chmod 0606 "$R"`},
		{id: "sealed-identity-all-read", does: "copies identity.age, of mode 0644, to guess its passphrase", plant: `chmod 0644 "$D/identity.age"`},
		{id: "sealed-identity-all-write", does: "replaces identity.age, of mode 0622", plant: `chmod 0622 "$D/identity.age"`},
		{id: "fingerprint-all-write", does: "replaces identity.fingerprint, of mode 0666", plant: `chmod 0666 "$D/identity.fingerprint"`},
		{id: "lock-all-read", does: "holds the lock, of mode 0644, for ever", plant: `chmod 0644 "$N.lock"`, args: []string{"logout"}, after: 0},
		{id: "lock-all-write", does: "holds the lock, of mode 0666, for ever", plant: `chmod 0666 "$N.lock"`, args: []string{"logout"}, after: 0},
		{id: "identity-file-all-read", does: "copies the identity file, of mode 0644", plant: `chmod 0644 "$I"`, given: byIdentity},
		{id: "identity-file-group-reads", does: "copies the identity file, of mode 0640", plant: `chmod 0640 "$I"`, given: byIdentity},
		{id: "identity-file-all-write", does: "replaces what is in the identity file, of mode 0602", plant: `chmod 0602 "$I"`, given: byIdentity},
		{id: "identity-file-read-by-link", does: "copies the identity file, which is named by a link of mode 0777", plant: `mv "$I" "$I.real" && chmod 0644 "$I.real" && ln -s identity.real "$I"`, given: byIdentity},
		{id: "passphrase-file-all-read", does: "copies the passphrase file, of mode 0644", plant: `chmod 0644 "$P"`},
		{id: "passphrase-file-group-writes", does: "replaces what is in the passphrase file, of mode 0620", plant: `chmod 0620 "$P"`},
		{id: "passphrase-pipe-all-write", does: "writes into the named pipe, of mode 0666, that is named as the passphrase file", plant: `rm "$P" && mkfifo -m 0666 "$P"`, after: 1},
		{id: "client-secret-file-all-read", does: "copies the client secret's file, of mode 0644", plant: `chmod 0644 "$S"`, args: login, after: 1},
		{id: "client-secret-file-all-write", does: "replaces what is in the client secret's file, of mode 0666", plant: `chmod 0666 "$S"`, args: login, after: 1},
	} {
		rows = append(rows, attack{
			id: e.id, who: anotherUser, gains: "what is in the files, or what the victim takes for it", does: e.does,
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				if e.given != nil {
					e.given(v)
				}
				if len(e.args) == 0 {
					e.args = []string{"status"}
				}
				v.sh(e.plant)
				return v.refused(e.args, "exposed", e.after)
			},
		})
	}
	return append(rows, attack{
		id: "lock-folder-open", who: anotherUser, gains: "the locks of the keychain", does: "writes to the folder that a program gave for a keychain's locks",
		play: func(t *testing.T) (bool, string) {
			v := newFilesVictim(t)
			v.sh(`chmod 0777 "$D"`)
			k := &tokenstore.Keychain{Service: "attack", LockDir: v.path("$D")}
			err := k.Delete(t.Context(), v.key())
			return !errors.Is(err, tokenstore.ErrExposed), "refused"
		},
	})
}

// refused runs the command, which is to refuse something at once, and what its hint says.
func (v *filesVictim) refused(args []string, code string, after int) (won bool, seen string) {
	v.t.Helper()
	r := v.run(args...)
	switch {
	case r.hangs():
		return true, "it hangs"
	case r.code != code:
		return true, fmt.Sprintf("exit status %d, %q: %s", r.exit, r.code, r.stderr)
	}
	command, err := v.mend(r.hint)
	if err != nil {
		return true, err.Error()
	}
	if r := v.run(args...); r.exit != after || r.code == code {
		return true, fmt.Sprintf("%q mends nothing: exit status %d, %s", command, r.exit, r.stderr)
	}
	return false, fmt.Sprintf("refused (`%s`); `%s` mends it", code, command)
}

// Only files are opened: no pipe, device or folder in their place.
func filesNoFile() (rows []attack) {
	kinds := []struct{ id, name, plant, mend string }{
		{"link", "a symbolic link to a file of the victim's", `echo mine >"$B/mine" && chmod 0600 "$B/mine" && ln -s "$B/mine" "$AT"`, "rm"},
		{"dangling", "a symbolic link to where nothing is", `ln -s "$B/made" "$AT"`, "rm"},
		{"pipe", "a named pipe", `mkfifo -m 0600 "$AT"`, "rm"},
		{"folder", "a folder", `mkdir -m 0700 "$AT" && touch "$AT/in-the-way"`, "mv"},
		{"zero", "a device without an end", `mknod -m 0600 "$AT" c 1 5`, "rm"},
	}
	places := []struct {
		id, name, at string
		args         []string
		after        int
		ignored      bool // nothing is decided by it
	}{
		{id: "record", name: "a record", at: `$R`, args: []string{"status"}, after: 3},
		{id: "record-logout", name: "a record that a sign-out deletes", at: `$R`, args: []string{"logout"}, after: 3},
		{id: "mark", name: "a mark", at: `$N.mark.age`, args: []string{"logout"}, after: 0, ignored: true},
		{id: "sealed-identity", name: "identity.age", at: `$D/identity.age`, args: []string{"status"}, after: 1},
		{id: "fingerprint", name: "identity.fingerprint", at: `$D/identity.fingerprint`, args: []string{"status"}, after: 0},
		{id: "lock", name: "a lock file", at: `$N.lock`, args: []string{"logout"}, after: 0},
		{id: "holder", name: "a lock's holder", at: `$N.lock.holder`, args: []string{"logout"}, after: 0, ignored: true},
		{id: "temporary", name: "a temporary file", at: `$N.record.age.tmp`, args: []string{"logout"}, after: 0, ignored: true},
	}
	for _, p := range places {
		for _, k := range kinds {
			if p.id == "temporary" && k.id == "folder" || p.id == "mark" && k.id == "folder" {
				continue // cannot be removed; the store says so (internal/proofs/faults)
			}
			rows = append(rows, attack{
				id: "no-file-" + p.id + "-" + k.id, who: folderUser, gains: "a command that hangs, a file of the victim's overwritten, or one made elsewhere",
				does: "puts " + k.name + " in the place of " + p.name,
				play: func(t *testing.T) (bool, string) {
					v := newFilesVictim(t)
					if k.id == "zero" {
						filesRoot(t)
					}
					v.sh(`AT="` + p.at + `"; rm -f "$AT"; ` + k.plant)
					var won bool
					var seen string
					if p.ignored {
						r := v.run(p.args...)
						won, seen = r.exit != p.after, "not opened; the command goes on"
						if won {
							seen = fmt.Sprintf("exit status %d after %v: %s", r.exit, r.took.Round(time.Second), r.stderr)
						}
					} else {
						won, seen = v.refused(p.args, "store_unavailable", p.after)
					}
					if _, err := os.Lstat(v.path("$B/made")); err == nil {
						return true, "a file was made elsewhere"
					}
					if data, err := os.ReadFile(v.path("$B/mine")); err == nil && string(data) != "mine\n" {
						return true, "the victim's file was overwritten"
					}
					return won, seen
				},
			})
		}
	}
	for _, k := range kinds[2:] {
		rows = append(rows, attack{
			id: "no-file-passphrase-" + k.id, who: "somebody who makes the machine", gains: "a command that hangs",
			does: "names " + k.name + " as the passphrase's file",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				if k.id == "zero" {
					filesRoot(t)
				}
				v.sh(`AT="$P"; rm -f "$AT"; ` + k.plant)
				r := v.run("status")
				if r.code != "no_passphrase" {
					return true, fmt.Sprintf("%q after %v: %s", r.code, r.took.Round(time.Second), r.stderr)
				}
				return false, "refused (`no_passphrase`) at once"
			},
		})
	}
	return rows
}

// Identities that are damaged or were planted.
func filesIdentities() (rows []attack) {
	for _, factor := range []int{19, 20, 22, 30} {
		rows = append(rows, attack{
			id: fmt.Sprintf("work-factor-%d", factor), who: folderUser, gains: "gigabytes of memory and minutes at each command",
			does: fmt.Sprintf("plants an identity.age with a scrypt work factor of %d", factor),
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				sealed, err := os.ReadFile(v.path("$D/identity.age"))
				if err != nil {
					t.Fatal(err)
				}
				head, rest, _ := bytes.Cut(sealed, []byte(" 8\n"))
				v.write("$D/identity.age", fmt.Sprintf("%s %d\n%s", head, factor, rest))
				r := v.run("status")
				if r.code != "store_damaged" || r.took > 5*time.Second {
					return true, fmt.Sprintf("%q after %v: %s", r.code, r.took, r.stderr)
				}
				return false, "refused (`store_damaged`) before any of it is done"
			},
		})
	}
	for _, d := range []struct {
		id, does, damage, code string
		lost                   bool // the session
		seals                  bool // the library makes the new identity, not (*filesVictim).seal
	}{
		{"fingerprint-empty", "identity.fingerprint is empty", `: >"$D/identity.fingerprint"`, "store_damaged", false, false},
		{"fingerprint-cut", "identity.fingerprint is half there", `truncate -s 30 "$D/identity.fingerprint"`, "store_damaged", false, false},
		{"fingerprint-long", "identity.fingerprint has more lines", `echo more >>"$D/identity.fingerprint"`, "store_damaged", false, false},
		{"sealed-identity-empty", "identity.age is empty", `: >"$D/identity.age"`, "store_damaged", true, true},
		{"sealed-identity-cut", "identity.age is half there", `truncate -s 100 "$D/identity.age"`, "store_damaged", true, false},
		{"sealed-identity-cut-body", "identity.age lacks its last byte", `truncate -s -1 "$D/identity.age"`, "store_damaged", true, false},
		{"sealed-identity-garbage", "identity.age is garbage", `echo garbage >"$D/identity.age"`, "store_damaged", true, false},
		{"sealed-identity-gone", "identity.age is gone", `rm "$D/identity.age"`, "wrong_passphrase", true, false},
		{"both-empty", "identity.age and identity.fingerprint are empty", `: >"$D/identity.age"; : >"$D/identity.fingerprint"`, "store_damaged", true, false},
		{"both-gone", "identity.age and identity.fingerprint are gone", `rm "$D/identity.age" "$D/identity.fingerprint"`, "store_damaged", true, true},
	} {
		rows = append(rows, attack{
			id: "damaged-" + d.id, who: "a full disk, or " + folderUser, gains: "a store that no hint brings back",
			does: d.does + "; the user does what the hints say, and saves a new session",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				v.sh(d.damage)
				r := v.run("status")
				if r.code != d.code {
					return true, fmt.Sprintf("%q: %s", r.code, r.stderr)
				}
				seen := "`" + d.code + "`"
				if d.id == "both-gone" { // status makes nothing, and its hint is to sign in
					if made, _ := filepath.Glob(v.path("$D/identity.[af]*")); len(made) > 0 {
						return true, "status makes " + strings.Join(made, " ")
					}
					seen += "; status makes nothing"
				} else {
					command, err := v.mend(r.hint)
					if err != nil {
						return true, err.Error()
					}
					seen += "; `" + command + "`"
				}
				if kept := v.access() == filesAccess; kept == d.lost {
					return true, fmt.Sprintf("the session is kept: %v", kept)
				}
				if d.lost && !d.seals {
					// The folder has neither file, as in a row that seals: a sign-in would make both.
					if left, _ := filepath.Glob(v.path("$D/identity.[af]*")); len(left) > 0 {
						return true, "the hints leave " + strings.Join(left, " ")
					}
					v.seal()
				}
				if d.lost {
					v.signIn("new-access-token-0123456789", time.Hour) // what login's hint ends in; it fails the test if it fails
					seen += "; signing in begins anew"
				} else {
					seen += "; the session is kept"
				}
				if r := v.run("status"); r.exit != 0 {
					return true, r.stderr
				}
				return false, seen
			},
		})
	}
	return rows
}

// A second user of the machine.
func filesUsers() (rows []attack) {
	for _, u := range []struct {
		id, does      string
		before, plant string
		args          []string
		after         int
		own           bool // by an identity file
	}{
		{id: "folder-squatted", does: "makes the store's folder first, in a sticky folder", before: `rm -r "$D"; chmod 1777 "$C"`, plant: `mkdir -m 0755 "$D"`, after: 3},
		{id: "folder-squatted-open", does: "makes the store's folder first, open to all", before: `rm -r "$D"; chmod 1777 "$C"`, plant: `mkdir "$D" && chmod 0777 "$D"`, after: 3},
		{id: "folder-squatted-link", does: "makes the store's folder first, as a link to another folder of the victim's", before: `mv "$D" "$B/other"; chmod 1777 "$C"`, plant: `ln -s "$B/other" "$D"`, after: 3},
		{id: "folder-given-away", does: "owns the store's folder", before: `chown 61002 "$D"`, after: 3},
		{id: "record-planted", does: "owns the record", before: `chown 61002 "$R"`, after: 3},
		{id: "identity-planted", does: "owns identity.age", before: `chown 61002 "$D/identity.age"`, after: 1},
		{id: "fingerprint-planted", does: "owns identity.fingerprint", before: `chown 61002 "$D/identity.fingerprint"`, after: 0},
		{id: "lock-planted", does: "owns the lock file", before: `chown 61002 "$N.lock"`, args: []string{"logout"}, after: 0},
		{id: "identity-file-planted", does: "owns the identity file, of mode 0600", before: `chown 61002 "$I"`, own: true, after: 0},
		{id: "passphrase-file-planted", does: "owns the passphrase file, of mode 0600", before: `chown 61002 "$P"`, after: 0},
	} {
		rows = append(rows, attack{
			id: "stranger-" + u.id, who: anotherUser, gains: "a store that is not the victim's", does: u.does,
			play: func(t *testing.T) (bool, string) {
				filesRoot(t)
				v := newFilesVictim(t)
				if u.own {
					v.env = []string{"ASTRAVUE_MCP_IDENTITY_FILE=" + v.path("$I")}
				}
				if u.args == nil {
					u.args = []string{"status"}
				}
				v.sh(u.before)
				if u.plant != "" {
					v.stranger(u.plant)
				}
				return v.refused(u.args, "exposed", u.after)
			},
		})
	}
	return append(rows,
		attack{
			id: "stranger-pipe-in-sticky-folder", who: anotherUser, gains: "a command that hangs", does: "puts a named pipe with the record's name into a store of mode 1777",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				name := filepath.Base(v.path("$R"))
				v.sh(`rm "$R"; chmod 0755 "$C"; chmod 1777 "$D"`)
				v.stranger(`mkfifo -m 0666 "$D/` + name + `"`)
				r := v.run("status")
				return r.code != "exposed", "the folder is refused (`exposed`) at once"
			},
		},
		attack{
			id: "locks-squatted", who: anotherUser, gains: "a keychain that cannot be used", does: "makes the folder of the keychain's locks in /tmp before a user who has a home",
			play: func(t *testing.T) (bool, string) {
				u := newFilesLocks(t, true)
				u.stranger(`mkdir -m 0700 "$T"`)
				u.code()
				where := u.where()
				return where != "the home", "the locks are in " + where + " that the user database names"
			},
		},
		attack{
			id: "locks-squatted-in-turn", who: anotherUser, gains: "two processes that each hold a lock of their own, and so a session that is refreshed twice",
			does: "makes the folder in /tmp before one process of the victim's, and removes it before the next",
			play: func(t *testing.T) (bool, string) {
				u := newFilesLocks(t, true)
				u.stranger(`mkdir -m 0700 "$T"`)
				u.code()
				first := u.where()
				u.sh(`rm -r "$B/home/.local"`) // what the first one made decides nothing
				u.stranger(`rmdir "$T"`)
				u.code()
				second := u.where()
				return first != second, "both are in " + second
			},
		},
		attack{
			id: "locks-squatted-homeless", who: anotherUser, gains: "a keychain that cannot be used", does: "makes the folder of the keychain's locks in /tmp before a user who has no home",
			stands: "Others can take every folder of such a user first. The error names the folder, its owner and the command by which root removes it. Another user's locks are never used.",
			play: func(t *testing.T) (bool, string) {
				u := newFilesLocks(t, false)
				u.stranger(`mkdir -m 0700 "$T"`)
				code := u.code()
				return code == "exposed", "refused (`" + code + "`)"
			},
		},
		attack{
			id: "locks-squatted-link", who: anotherUser, gains: "locks in a folder of the victim's that the attacker chose", does: "makes the folder of the keychain's locks in /tmp, as a link, before a user who has no home",
			play: func(t *testing.T) (bool, string) {
				u := newFilesLocks(t, false)
				u.stranger(`ln -s "$B" "$T"`)
				code := u.code()
				return code != "exposed", "refused (`" + code + "`)"
			},
		},
		attack{
			id: "memory-of-another-process", who: "another program of this user", gains: "the tokens in memory", does: "opens the memory of a command that makes a call",
			play: func(t *testing.T) (bool, string) {
				filesRoot(t)
				v := newFilesVictim(t)
				came := v.serve()
				v.signIn(filesAccess, time.Hour)
				v.sh(`chown -R 61002 "$C" "$P"`)
				cmd := v.asStranger(v.command("tools"))
				var output testenv.Buffer
				cmd.Stdout, cmd.Stderr = &output, &output
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				select {
				case <-came:
				case <-time.After(filesPatience):
					t.Fatalf("no call: %s", &output)
				}
				read := v.asStranger(exec.Command("/bin/sh", "-c", fmt.Sprintf("exec 3</proc/%d/mem", cmd.Process.Pid)))
				return read.Run() == nil, "permission denied"
			},
		},
	)
}

// asStranger makes a command one of the other user's.
func (v *filesVictim) asStranger(cmd *exec.Cmd) *exec.Cmd {
	v.t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		v.t.Fatal(err)
	}
	cmd.Args = append([]string{"setpriv", "--reuid=" + filesStranger, "--regid=" + filesStranger, "--clear-groups", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = setpriv
	return cmd
}

// A filesLocks is a user of a keychain whom the user database knows, in a mount namespace where it
// says which parts the attack needs.
type filesLocks struct {
	*filesVictim
	uid string
}

func newFilesLocks(t *testing.T, home bool) *filesLocks {
	t.Helper()
	filesRoot(t)
	_, err := exec.LookPath("unshare")
	testenv.Need(t, "unshare", err == nil, fmt.Sprint(err))
	v := newFilesVictim(t)
	u := &filesLocks{v, "61003"}
	dir := "/nonexistent"
	if home {
		v.sh(`mkdir -m 0700 "$B/home" && chown 61003 "$B/home"`)
		dir = v.path("$B/home")
	}
	v.write("$B/passwd", "root:x:0:0::/root:/bin/sh\nvictim:x:61003:61003::"+dir+":/bin/sh\n")
	if err := os.Chmod(v.path("$B/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		if err := os.RemoveAll(u.shared()); err != nil {
			t.Error(err)
		}
	}
	gone()
	t.Cleanup(gone)
	return u
}

// shared is the folder that everybody can make.
func (u *filesLocks) shared() string { return filepath.Join("/tmp", "astravue-mcp-"+u.uid) }

func (u *filesLocks) stranger(script string) {
	u.t.Helper()
	u.filesVictim.stranger(`T=` + u.shared() + `; ` + script)
}

// code has the user take a lock, and yields what the command says; without a keychain there is
// nothing more than that.
func (u *filesLocks) code() string {
	u.t.Helper()
	cmd := u.command("login", "--store", "keychain", "--timeout", "5s", "-o", "json")
	cmd.Args = append([]string{"unshare", "-m", "sh", "-c",
		`mount --bind "$PASSWD" /etc/passwd && exec setpriv --reuid=61003 --regid=61003 --clear-groups "$@"`, "sh", u.program}, cmd.Args[1:]...)
	cmd.Env = append(cmd.Env, "PASSWD="+u.path("$B/passwd"), "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent")
	var err error
	if cmd.Path, err = exec.LookPath("unshare"); err != nil {
		u.t.Fatal(err)
	}
	r := u.wait(cmd)
	testenv.Need(u.t, "a mount namespace", r.code != "", r.stderr)
	return r.code
}

// where says in which folder the locks are.
func (u *filesLocks) where() string {
	u.t.Helper()
	var where []string
	for name, dir := range map[string]string{"the home": u.path("$B/home/.local/state/astravue-mcp"), "the folder in /tmp": u.shared()} {
		if found, _ := filepath.Glob(filepath.Join(dir, "*.lock")); len(found) > 0 {
			where = append(where, name)
		}
	}
	slices.Sort(where)
	return strings.Join(where, " and ")
}

// Records that somebody changed.
func filesStored() (rows []attack) {
	other := tokenstore.GrantKey("http://127.0.0.1:9/mcp", "other")
	for _, d := range []struct {
		id, does string
		spoil    func(v *filesVictim, record []byte) []byte
	}{
		{"empty", "empties the record", func(*filesVictim, []byte) []byte { return nil }},
		{"cut-head", "cuts the record in its head", func(_ *filesVictim, b []byte) []byte { return b[:30] }},
		{"cut-end", "cuts the record's last byte", func(_ *filesVictim, b []byte) []byte { return b[:len(b)-1] }},
		{"longer", "adds a byte to the record", func(_ *filesVictim, b []byte) []byte { return append(b, 0) }},
		{"bit", "changes one bit of the record", func(_ *filesVictim, b []byte) []byte { b[len(b)-5] ^= 1; return b }},
		{"plain", "replaces the record by one in the clear", func(*filesVictim, []byte) []byte {
			return []byte(`{"schema":1,"generation":"G","grant":{"access_token":"mine"}}`)
		}},
		{"other-account", "replaces the record by another account's", func(v *filesVictim, _ []byte) []byte {
			return v.another(other, tokenstore.Record{Grant: &tokenstore.Grant{AccessToken: tokenstore.NewSecret("other")}})
		}},
		{"registration", "replaces the record by a registration", func(v *filesVictim, _ []byte) []byte {
			return v.another(tokenstore.RegistrationKey("x", "y", "https://z.example"), tokenstore.Record{Registration: &tokenstore.Registration{ClientID: "other"}})
		}},
		{"other-identity", "replaces the record by one that is sealed with the attacker's identity", func(v *filesVictim, _ []byte) []byte {
			id, err := age.GenerateX25519Identity()
			if err != nil {
				v.t.Fatal(err)
			}
			var b bytes.Buffer
			w, err := age.Encrypt(&b, id.Recipient())
			if err != nil {
				v.t.Fatal(err)
			}
			fmt.Fprintf(w, "astravue-mcp record %q\n{}", v.key())
			_ = w.Close()
			return b.Bytes()
		}},
		{"huge", "replaces the record by 5 MiB", func(*filesVictim, []byte) []byte { return make([]byte, 5<<20) }},
	} {
		rows = append(rows, attack{
			id: "record-" + d.id, who: folderUser, gains: "a session of the attacker's choice, or a record that is lost", does: d.does,
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				path := v.path("$R")
				whole, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				spoilt := d.spoil(v, bytes.Clone(whole))
				if err := os.WriteFile(path, spoilt, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err = v.store().Get(t.Context(), v.key())
				left, _ := os.ReadFile(path)
				return !errors.Is(err, tokenstore.ErrCorrupt) || !bytes.Equal(left, spoilt), "`ErrCorrupt`; the file stays as it is"
			},
		})
	}
	const rolled = "Nothing outside the store tells an old record from the last one. The documentation of `tokenstore.File` and `tokenstore.Keychain` names this and its consequences."
	return append(rows,
		attack{
			id: "record-rolled-back", who: folderUser, gains: "the use of an older grant", does: "puts an older record back after a refresh", stands: rolled,
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				v.sh(`cp -p "$R" "$B/kept"`)
				v.signIn("newer-access-token-0123456789", time.Hour)
				v.sh(`cp -p "$B/kept" "$R"`)
				return v.access() == filesAccess, "the older grant is used"
			},
		},
		attack{
			id: "record-put-back-after-logout", who: folderUser, gains: "a victim who takes himself to be signed in", does: "puts the record back after a sign-out", stands: rolled,
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				name := v.path("$R")
				v.sh(`cp -p "$R" "$B/kept"`)
				if r := v.run("logout"); r.exit != 0 {
					t.Fatal(r.stderr)
				}
				if err := os.Rename(v.path("$B/kept"), name); err != nil {
					t.Fatal(err)
				}
				r := v.run("status")
				return r.exit == 0, "`status` says that there is a session; the server revoked what it holds, where it can"
			},
		},
		attack{
			id: "umask", who: anotherUser, gains: "the records, or their folder", does: "waits for a user whose umask is 000",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				v.sh(`rm -r "$C"`)
				cmd := v.shell(`umask 000; exec "$PROGRAM" login --client-id x --timeout 3s`)
				cmd.Env = append(v.command().Env, "PROGRAM="+v.program) // it writes to the store, and finds no server
				v.wait(cmd)
				seen := 0
				for _, dir := range []string{"$C", "$D"} {
					info, err := os.Stat(v.path(dir))
					if err != nil {
						t.Fatal(err)
					}
					if info.Mode().Perm() != 0o700 {
						return true, fmt.Sprint(info.Mode())
					}
				}
				files, err := os.ReadDir(v.path("$D"))
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					info, err := f.Info()
					if err != nil {
						t.Fatal(err)
					}
					if seen++; info.Mode().Perm() != 0o600 {
						return true, fmt.Sprintf("%s is %v", f.Name(), info.Mode())
					}
				}
				return seen < 3, "folders are 0700 and files 0600"
			},
		},
	)
}

// another returns the file of a record under another key.
func (v *filesVictim) another(key tokenstore.Key, r tokenstore.Record) []byte {
	v.t.Helper()
	before, _ := filepath.Glob(v.path("$D/*.record.age"))
	if err := v.store().Update(v.t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, r)
		return err
	}); err != nil {
		v.t.Fatal(err)
	}
	after, _ := filepath.Glob(v.path("$D/*.record.age"))
	for _, path := range after {
		if !slices.Contains(before, path) {
			data, err := os.ReadFile(path)
			if err != nil {
				v.t.Fatal(err)
			}
			return data
		}
	}
	v.t.Fatal("no other record")
	return nil
}

// holds says which of the victim's secrets a text has, also in base64.
func (v *filesVictim) holds(text string) (found []string) {
	for name, secret := range map[string]string{"access token": filesAccess, "refresh token": filesRefresh, "client secret": filesSecret, "passphrase": filesPhrase} {
		if strings.Contains(text, secret) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(secret))) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// A process that holds tokens.
func filesProcess() []attack {
	reader := "anybody who reads what a process leaves behind"
	// call starts a command that calls a tool with its token. The server never answers.
	call := func(v *filesVictim, before string, env ...string) (cmd *exec.Cmd, output *testenv.Buffer) {
		v.t.Helper()
		came := v.serve()
		v.signIn(filesAccess, time.Hour)
		cmd = v.shell(before + ` exec "$PROGRAM" tools --verbose`)
		cmd.Env = append(append(v.command().Env, "PROGRAM="+v.program), env...)
		output = new(testenv.Buffer)
		cmd.Stdout, cmd.Stderr = output, output
		if err := cmd.Start(); err != nil {
			v.t.Fatal(err)
		}
		v.t.Cleanup(func() { _ = cmd.Process.Kill() })
		select {
		case <-came:
		case <-time.After(filesPatience):
			v.t.Fatalf("no call: %s", output)
		}
		return cmd, output
	}
	// refresh starts a command that sends its refresh token. The server never answers.
	refresh := func(v *filesVictim) *exec.Cmd {
		v.t.Helper()
		came := v.serve()
		v.signIn(filesAccess, -time.Minute)
		cmd := v.command("tools")
		if err := cmd.Start(); err != nil {
			v.t.Fatal(err)
		}
		v.t.Cleanup(func() { _ = cmd.Process.Kill() })
		select {
		case <-came:
		case <-time.After(filesPatience):
			v.t.Fatal("no refresh")
		}
		return cmd
	}
	ends := func(cmd *exec.Cmd, within time.Duration) bool {
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
			return true
		case <-time.After(within):
			_ = cmd.Process.Kill()
			<-done
			return false
		}
	}
	var rows []attack
	for _, s := range []struct {
		id, name    string
		first, then os.Signal
	}{
		{"interrupts", "Ctrl-C twice", os.Interrupt, os.Interrupt},
		{"term-interrupt", "SIGTERM, then Ctrl-C", syscall.SIGTERM, os.Interrupt},
		{"interrupt-term", "Ctrl-C, then SIGTERM", os.Interrupt, syscall.SIGTERM},
	} {
		rows = append(rows, attack{
			id: "never-ends-" + s.id, who: "a server that does not answer a refresh", gains: "a command that only SIGKILL ends",
			does: "makes the command wait; the user says " + s.name,
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				cmd := refresh(v)
				if err := cmd.Process.Signal(s.first); err != nil {
					t.Fatal(err)
				}
				time.Sleep(300 * time.Millisecond) // a refresh under way is waited for
				if err := cmd.Process.Signal(s.then); err != nil {
					t.Fatalf("the first signal has ended it: %v", err)
				}
				return !ends(cmd, 3*time.Second), "the second signal ends it"
			},
		})
	}
	for _, c := range []struct {
		id   string
		args []string
	}{{"status", []string{"status"}}, {"tools", []string{"tools"}}, {"logout", []string{"logout"}}, {"login", []string{"login"}}} {
		rows = append(rows, attack{
			id: "hung-disk-" + c.id, who: "a network disk that does not answer", gains: "a command that hangs",
			does: "holds the folder of the store; " + c.id + " was told --timeout 1s",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				filesHang(t, v.path("$C"))
				r := v.run(append(c.args, "--timeout", "1s")...)
				if r.took > 6*time.Second || r.exit != 1 {
					return true, fmt.Sprintf("exit status %d after %v: %s", r.exit, r.took.Round(time.Second), r.stderr)
				}
				return false, "it ends soon after (`" + r.code + "`)"
			},
		})
	}
	rows = append(rows, attack{
		id: "hung-disk-interrupts", who: "a network disk that does not answer", gains: "a command that only SIGKILL ends",
		does: "holds the folder of the store; the user says Ctrl-C twice",
		play: func(t *testing.T) (bool, string) {
			v := newFilesVictim(t)
			filesHang(t, v.path("$C"))
			cmd := v.command("logout")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			_ = cmd.Process.Signal(os.Interrupt)
			time.Sleep(50 * time.Millisecond)
			_ = cmd.Process.Signal(os.Interrupt)
			return !ends(cmd, 3*time.Second), "it ends"
		},
	})
	for _, s := range []struct {
		id     string
		signal os.Signal
	}{{"abort", syscall.SIGABRT}, {"quit", syscall.SIGQUIT}, {"segv", syscall.SIGSEGV}} {
		rows = append(rows, attack{
			id: "core-" + s.id, who: reader, gains: "tokens, client secret, passphrase", does: fmt.Sprintf("has the process dump its memory (%v, no limit, GOTRACEBACK=crash) while it makes a call", s.signal),
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern")
				testenv.Need(t, "core dumps in files", strings.TrimSpace(string(pattern)) == "core", "core_pattern is "+string(pattern))
				// A program that does not prevent it is dumped: its core can be searched.
				v.sh(`ulimit -c unlimited; mkdir "$B/control"; cd "$B/control"; SECRET=` + filesAccess + ` sh -c 'kill -ABRT $$' || true`)
				if got := v.cores("$B/control"); len(v.holds(got)) == 0 {
					testenv.Need(t, "core dumps", false, "none was made")
				}
				v.sh(`mkdir "$B/run"`)
				cmd, output := call(v, `ulimit -c unlimited; cd "`+v.path("$B/run")+`";`, "GOTRACEBACK=crash")
				if err := cmd.Process.Signal(s.signal); err != nil {
					t.Fatal(err)
				}
				if !ends(cmd, filesPatience) {
					t.Fatal("it does not end")
				}
				found := v.holds(v.cores("$B/run") + output.String())
				return len(found) > 0, "no dump, and no secret in what is printed" + strings.Join(found, ", ")
			},
		})
	}
	return append(rows,
		attack{
			id: "at-rest-process", who: anotherUser, gains: "tokens, client secret, passphrase", does: "reads environment and arguments of a process that makes a call, and all that it prints (--verbose)",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				cmd, output := call(v, "")
				var all strings.Builder
				for _, name := range []string{"environ", "cmdline"} {
					data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, name))
					if err != nil {
						t.Fatal(err)
					}
					all.Write(data)
				}
				found := v.holds(all.String() + output.String())
				return len(found) > 0, "none of them" + strings.Join(found, ", ")
			},
		},
		attack{
			id: "at-rest-goroutines", who: reader, gains: "tokens, client secret, passphrase", does: "has the process print its goroutines (SIGQUIT, GOTRACEBACK=all) while it makes a call",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				cmd, output := call(v, "", "GOTRACEBACK=all")
				_ = cmd.Process.Signal(syscall.SIGQUIT)
				if !ends(cmd, filesPatience) || !strings.Contains(output.String(), "goroutine ") {
					t.Fatalf("no goroutines: %s", output)
				}
				found := v.holds(output.String())
				return len(found) > 0, "none of them" + strings.Join(found, ", ")
			},
		},
		attack{
			id: "at-rest-files", who: folderUser, gains: "tokens, client secret", does: "reads all files that the command keeps",
			play: func(t *testing.T) (bool, string) {
				v := newFilesVictim(t)
				if v.access() != filesAccess {
					t.Fatal("nothing is stored")
				}
				var all strings.Builder
				files, err := filepath.Glob(v.path("$D/*"))
				if err != nil || len(files) < 3 {
					t.Fatal(files, err)
				}
				for _, f := range files {
					data, err := os.ReadFile(f)
					if err != nil {
						t.Fatal(err)
					}
					all.WriteString(f)
					all.Write(data)
				}
				found := v.holds(all.String())
				return len(found) > 0, "none of them" + strings.Join(found, ", ")
			},
		},
	)
}

// cores returns the core dumps in a folder.
func (v *filesVictim) cores(dir string) string {
	v.t.Helper()
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(v.path(dir), "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			v.t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}
