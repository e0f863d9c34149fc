package sandbox

import (
	"fmt"
	"net/url"
	"testing"
)

func TestTableForgetsTheOldest(t *testing.T) {
	tab := newTable[int](3)
	for i := range 1000 {
		tab.put(fmt.Sprint(i), i)
		if i%3 == 0 {
			tab.delete(fmt.Sprint(i))
		}
	}
	if len(tab.m) > 3 || len(tab.order) > 128 {
		t.Errorf("%d entries, %d in order", len(tab.m), len(tab.order))
	}
	if _, ok := tab.get("998"); !ok {
		t.Error("a late one is gone")
	}
	if _, ok := tab.get("1"); ok {
		t.Error("an early one is there")
	}
}

func TestRedirectRules(t *testing.T) {
	portless, live := []string{"http://127.0.0.1/cb", "http://[::1]/cb?a=b"}, []string{"http://127.0.0.1:3142/cb"}
	for _, c := range []struct {
		registered []string
		asked      string
		want       bool
	}{
		{portless, "http://127.0.0.1/cb", true},
		{portless, "http://127.0.0.1:1/cb", true},
		{portless, "http://[::1]:1/cb?a=b", true},
		{portless, "http://[::1]:1/cb", false},
		{portless, "http://localhost:1/cb", false},
		{portless, "https://127.0.0.1:1/cb", false},
		{portless, "http://127.0.0.1:1/CB", false},
		{portless, "http://127.0.0.1:1@attacker.example/cb", false},
		{portless, "http://127.0.0.1.attacker.example/cb", false},
		{portless, "", false},
		{live, "http://127.0.0.1:3142/cb", true},
		{live, "http://127.0.0.1:3143/cb", false},
		{live, "http://127.0.0.1/cb", false},
		{[]string{"https://app.example/cb"}, "https://app.example:444/cb", false},
	} {
		if got := redirectAllowed(c.registered, c.asked); got != c.want {
			t.Errorf("%q for %q: %v", c.asked, c.registered, got)
		}
	}
}

// FuzzRedirect holds that whatever is let through differs from what is
// registered in the port of a loopback address at most.
func FuzzRedirect(f *testing.F) {
	f.Add("http://127.0.0.1:80/cb")
	f.Add("http://127.0.0.1:80@x/cb")
	f.Add("http://[::1]:80/cb")
	f.Fuzz(func(t *testing.T, asked string) {
		if !redirectAllowed([]string{"http://127.0.0.1/cb", "http://[::1]/cb"}, asked) {
			return
		}
		u, err := url.Parse(asked)
		if err != nil || u.Scheme != "http" || u.User != nil || u.Hostname() != "127.0.0.1" && u.Hostname() != "::1" || u.EscapedPath() != "/cb" || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q is let through", asked)
		}
	})
}
