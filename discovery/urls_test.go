package discovery

import (
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"testing"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

func TestURLVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/urls.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Canonical []struct{ URL, Is string }
		Resource  []struct {
			Server, Challenge string
			Try               []string
		}
		Issuer []struct {
			Issuer string
			Try    []string
		}
		Bind []struct{ Server, Document, Resource, Send string }
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Canonical) == 0 || len(v.Resource) == 0 || len(v.Issuer) == 0 || len(v.Bind) == 0 {
		t.Fatal("a list of vectors is empty")
	}
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, c := range v.Canonical {
		got := oauthhttp.Canonical(parse(c.URL))
		if got != c.Is {
			t.Errorf("canonical(%q) = %q, want %q", c.URL, got, c.Is)
		}
		if again := oauthhttp.Canonical(parse(got)); again != got {
			t.Errorf("canonical(%q) = %q, want no change", got, again)
		}
	}
	for _, c := range v.Resource {
		if got := resourceURLs(parse(c.Server), c.Challenge); !slices.Equal(got, c.Try) {
			t.Errorf("resource %s, challenge %q: try %q, want %q", c.Server, c.Challenge, got, c.Try)
		}
	}
	for _, c := range v.Issuer {
		if got := issuerURLs(parse(c.Issuer)); !slices.Equal(got, c.Try) {
			t.Errorf("issuer %s: try %q, want %q", c.Issuer, got, c.Try)
		}
	}
	for _, c := range v.Bind {
		got := ""
		if binds(parse(c.Server), c.Document, c.Resource) {
			got = c.Resource
		}
		if got != c.Send {
			t.Errorf("%s at %s for %s: send %q, want %q", c.Resource, c.Document, c.Server, got, c.Send)
		}
	}
}
