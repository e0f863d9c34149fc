package testenv

import (
	"fmt"
	"strings"
	"testing"
)

// Count reports one row of a table of counts, which a script may collect from the output of
// `go test -v`: the table's name, then names and values of its columns, in turn.
//
//	Count(t, "kills", "store", "file", "kills", 500, "intact", 500)
//
// prints
//
//	counted kills: store=file; kills=500; intact=500
func Count(t testing.TB, table string, columns ...any) {
	t.Helper()
	var row strings.Builder
	for i := 0; i+1 < len(columns); i += 2 {
		if i > 0 {
			row.WriteString("; ")
		}
		fmt.Fprintf(&row, "%v=%v", columns[i], columns[i+1])
	}
	t.Logf("counted %s: %s", table, row.String())
}
