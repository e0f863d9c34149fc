package mcpclient_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Some servers have no streams and answer a GET with 404, as others do when a
// session has ended. No new session is begun for that.
func TestA404ToAGETEndsNoSessionWithoutStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &legacyServer{get: http.NotFound}
		new(line).connect(t, s.serve, &mcp.ClientOptions{})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if begun, asked := s.count("POST initialize"), s.count("GET"); begun != 1 || asked != 1 {
			t.Errorf("%d sessions were begun and %d streams were asked for", begun, asked)
		}
	})
}

// Asked to go on at the event before, the server would send the one that is too
// large again and again.
func TestAStreamGoesOnAfterAnEventThatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lasts []string
		s := &legacyServer{get: func(w http.ResponseWriter, r *http.Request) {
			if lasts = append(lasts, r.Header.Get("Last-Event-Id")); len(lasts) == 1 {
				events(w, "id: e1\ndata:\n\nid: e2\ndata: "+strings.Repeat("[", 70)+strings.Repeat("]", 70)+"\n\n")
				return
			}
			events(w, "")
			<-r.Context().Done()
		}}
		new(line).connect(t, s.serve, &mcp.ClientOptions{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(lasts, []string{"", ""}) {
			t.Errorf("the streams were asked for after the events %q", lasts)
		}
	})
}
