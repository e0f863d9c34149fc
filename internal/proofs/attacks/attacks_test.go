// Package attacks attacks the library, the command, the sandbox and the examples. An audit found the
// attacks; most failed. Each row of the table in results.md names the attacker, the gain and the
// result. Write it with
//
//	go test ./internal/proofs/attacks -update
//
// An attack that succeeds fails the test, unless its row says why it cannot be prevented and where
// its victims read about it. Such a row fails the test if the attack does not succeed.
//
// To add one, write an [attack] into the list of its area. Attack with real sockets and real
// processes; an attacker who wants a token has to use the token.
package attacks

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write results.md")

const results = "results.md"

// An attack is a row of the table.
type attack struct {
	id    string // lower-case words with hyphens; it never changes
	who   string // the attacker: "a hostile MCP server", "another user of this machine"
	gains string // by an attack that succeeds
	does  string // in a sentence

	// stands says why the attack succeeds, and where its victims read about it. "" if the attack
	// must fail.
	stands string

	// play attacks. It reports whether the attacker gained anything, and the result in words that
	// are equal in each run. It fails the test only if the attack could not be made. It calls
	// testenv.Need for parts that a machine may lack.
	play func(t *testing.T) (won bool, seen string)
}

// An area is a list of attacks under one heading. They are played one after another; areas are
// played in parallel.
type area struct {
	title   string
	attacks []attack

	// alone is set if the attacks move the clock, set environment variables or measure the
	// process. No other area is played meanwhile.
	alone bool
}

func TestAttacks(t *testing.T) {
	kept := read(t)
	rows := make([]string, len(areas)) // of each area
	t.Run("all", func(t *testing.T) {
		for i, area := range areas {
			for _, a := range area.attacks {
				rows[i] += kept[a.id] // if -run leaves them out
			}
			t.Run(area.title, func(t *testing.T) {
				if !area.alone {
					t.Parallel()
				}
				rows[i] = area.play(t, kept)
			})
		}
	})
	if !*update || t.Failed() {
		return
	}
	var b strings.Builder
	all, stand := 0, 0
	for i, area := range areas {
		fmt.Fprintf(&b, "\n## %s\n\n| attack | attacker | gain | attack in a sentence | result |\n|---|---|---|---|---|\n%s", area.title, rows[i])
		for _, a := range area.attacks {
			all++
			if a.stands != "" {
				stand++
			}
		}
	}
	text := fmt.Sprintf("The result of each attack in a run of `go test ./internal/proofs/attacks`: %d attacks. %d of them succeed; their rows say why, and\nwhere users read about it. The test fails if an attack has another result.\n", all, stand) + b.String()
	if err := os.WriteFile(results, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// play plays the attacks of an area and returns their rows. An attack that this machine cannot play
// keeps its row of an earlier run.
func (area area) play(t *testing.T, kept map[string]string) string {
	var b strings.Builder
	for _, a := range area.attacks {
		row := kept[a.id]
		t.Run(a.id, func(t *testing.T) {
			won, seen := a.play(t)
			switch {
			case won && a.stands == "":
				t.Errorf("the attack succeeds: %s", seen)
			case !won && a.stands != "":
				t.Errorf("the attack fails now: remove stands from its row: %s", seen)
			}
			if a.stands != "" {
				seen = "**It succeeds**: " + seen + ". " + a.stands
			}
			now := line("`"+a.id+"`", a.who, a.gains, a.does, seen)
			if row != now && !*update {
				t.Errorf("%s is out of date, write it anew with -update; it should have\n%s", results, now)
			}
			row = now
		})
		b.WriteString(row)
	}
	return b.String()
}

// TestTable checks that every attack has a row, even if this machine cannot play it, and that every
// row has an attack.
func TestTable(t *testing.T) {
	if *update {
		return // it is being written
	}
	rows, known := read(t), map[string]bool{}
	for _, area := range areas {
		for _, a := range area.attacks {
			switch {
			case a.id == "" || known[a.id]:
				t.Errorf("an attack has no ID, or that of another: %q", a.id)
			case rows[a.id] == "":
				t.Errorf("%s has no row for %s", results, a.id)
			}
			known[a.id] = true
			delete(rows, a.id)
		}
	}
	for id := range rows {
		t.Errorf("%s has a row for %s, which is no attack", results, id)
	}
}

// read returns the rows of results.md by their ID.
func read(t *testing.T) map[string]string {
	data, err := os.ReadFile(results)
	if err != nil && !*update {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for row := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(row, "| `"); ok {
			id, _, _ := strings.Cut(rest, "`")
			rows[id] = row
		}
	}
	return rows
}

// line returns a row in Markdown.
func line(cells ...string) string {
	for i, c := range cells {
		cells[i] = strings.NewReplacer("|", `\|`, "\n", " ", "\r", `\r`, "<", `\<`).Replace(c)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// shellPath is a PATH variable with the programs of every Unix: the tests may run with Go's alone.
func shellPath() string { return "PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin" }
