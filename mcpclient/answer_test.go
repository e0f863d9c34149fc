package mcpclient_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
)

// A date in Retry-After is one of the server's clock.
func TestRetryAfterUnderAWrongClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		s := newLegacyServer(t)
		session := s.connect(t)
		s.mu.Lock()
		s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
			w.Header().Set("Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		}
		s.mu.Unlock()
		jump(t, off)
		var answer *mcpclient.AnswerError
		if err := callTool(t.Context(), session); !errors.As(err, &answer) || (answer.RetryAfter-time.Minute).Abs() > 5*time.Second {
			t.Errorf("with a clock that is %v ahead: %v", off, err)
		}
	}
}
