package oauthhttp

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A spy is a body that counts what was read and knows whether it was closed.
type spy struct {
	io.Reader
	read   int
	closed func() error
}

func (s *spy) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read += n
	return n, err
}

func (s *spy) Close() error { return s.closed() }

func TestDrain(t *testing.T) {
	for _, test := range []struct {
		name        string
		size, reads int
	}{
		{"short", 1000, 1000},
		{"long", 1 << 20, maxDrain},
	} {
		t.Run(test.name, func(t *testing.T) {
			closed := false
			body := &spy{Reader: strings.NewReader(strings.Repeat("x", test.size)), closed: func() error { closed = true; return nil }}
			Drain(&http.Response{Body: body})
			if body.read != test.reads || !closed {
				t.Errorf("read %d bytes, closed %v, want %d and true", body.read, closed, test.reads)
			}
		})
	}
	t.Run("that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			begun := time.Now()
			Drain(&http.Response{Body: r})
			if took := time.Since(begun); took != drainTime {
				t.Errorf("took %v, want %v", took, drainTime)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("write after it: %v, want a closed body", err)
			}
		})
	})
}
