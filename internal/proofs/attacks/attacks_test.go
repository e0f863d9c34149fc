// Package attacks plays attacks to the library, the command, the sandbox and the examples: what an
// audit found and what it did not get through with, each with who attacks, what would be gained
// and what was seen. The table is kept in results.md, written with
//
//	go test ./internal/proofs/attacks -update
//
// An attack that succeeds fails the test, unless its row says why it cannot be helped and who is
// told so; and a row that says so fails where the attack does not succeed.
//
// To add one, write an [attack] into the list of its area. It has to do what an attacker would:
// real sockets, real processes, and for tokens an attacker who uses what it gets.
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
	id    string // as lower-case words with hyphens; it stays when the rest is written anew
	who   string // attacks: "a hostile MCP server", "another user of this machine"
	gains string // if it succeeds
	does  string // what it does, in a sentence

	// stands says why the attack succeeds all the same, and where its victims read so. "": it does
	// not.
	stands string

	// play attacks. It reports whether the attacker gained anything, and what was seen, which must
	// be the same in each run. It fails the test only if the attack could not be made, and uses
	// testenv.Need for what a machine may lack.
	play func(t *testing.T) (won bool, seen string)
}

// An area is a list of attacks under one heading, which are played one after another, beside those
// of other areas.
type area struct {
	title   string
	attacks []attack

	// alone says that its attacks move the clock, set an environment or count what the process
	// uses. They are played while no others are.
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
		fmt.Fprintf(&b, "\n## %s\n\n| attack | by | would gain | what is done | what comes of it |\n|---|---|---|---|---|\n%s", area.title, rows[i])
		for _, a := range area.attacks {
			all++
			if a.stands != "" {
				stand++
			}
		}
	}
	text := fmt.Sprintf("What becomes of each attack, from a run of `go test ./internal/proofs/attacks`: %d attacks, of which\n%d succeed, each with the reason and who is told so. An attack that comes to anything else fails the test.\n", all, stand) + b.String()
	if err := os.WriteFile(results, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// play plays the attacks of an area and returns their rows. What this machine cannot play keeps the
// row of an earlier run.
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
				t.Errorf("the attack does not succeed any more, so its row is to say nothing of why it stands: %s", seen)
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

// TestTable holds that every attack has a row, also those that this machine cannot play, and
// that every row has an attack.
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
		cells[i] = strings.NewReplacer("|", `\|`, "\n", " ", "<", `\<`).Replace(c)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// shellPath is the variable with which a shell finds the programs of every Unix, where the tests run
// with Go's alone.
func shellPath() string { return "PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin" }
