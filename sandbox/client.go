package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

type client struct {
	id, secret string
	name, uri  string
	redirects  []string
	methods    []string // of authentication at the token endpoint
	metadata   map[string]any
	management string              // live registration access token
	consents   map[string][]string // scopes by user ID
	dynamic    bool
}

// registered counts the clients that registered themselves. s.mu is held.
func (s *Server) registered() int {
	n := 0
	for _, c := range s.clients {
		if c.dynamic {
			n++
		}
	}
	return n
}

func (s *Server) allClients() []*client {
	var out []*client
	for _, c := range s.clients {
		out = append(out, c)
	}
	for _, c := range s.metadata.m {
		out = append(out, c)
	}
	return out
}

// findClient returns the client of an ID, nil if there is none. With fetch, it
// fetches the metadata document of an ID that is a URL, every time.
func (s *Server) findClient(ctx context.Context, id string, fetch bool) (*client, error) {
	s.mu.Lock()
	c := s.clients[id]
	if c == nil {
		c, _ = s.metadata.get(id)
	}
	s.mu.Unlock()
	if !fetch || !strings.HasPrefix(id, "https://") && !strings.HasPrefix(id, "http://") {
		return c, nil
	}
	doc, err := s.fetchMetadata(ctx, id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.metadata.get(id); ok {
		old.name, old.uri, old.redirects = doc.name, doc.uri, doc.redirects
		return old, nil
	}
	s.metadata.put(id, doc)
	return doc, nil
}

// fetchMetadata reads a client-ID metadata document
// (draft-ietf-oauth-client-id-metadata-document), from loopback only: the sandbox
// connects to nothing else.
func (s *Server) fetchMetadata(ctx context.Context, id string) (*client, error) {
	u, err := url.Parse(id)
	switch {
	case err != nil || u.User != nil || u.Fragment != "" || u.RawQuery != "" || len(u.Path) < 2:
		return nil, errors.New("the client ID is no URL of a metadata document")
	case !loopbackHost(u.Host):
		return nil, errors.New("this sandbox fetches client metadata from loopback addresses only")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, id, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	hc := *s.opts.HTTPClient
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := hc.Do(req)
	if err != nil {
		return nil, errors.New("the client metadata document cannot be fetched")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 5001))
	switch {
	case err != nil:
		return nil, errors.New("the client metadata document cannot be read")
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the client metadata document is answered %d", resp.StatusCode)
	case len(body) > 5000:
		return nil, errors.New("the client metadata document is larger than 5000 bytes")
	}
	var doc struct {
		ClientID  string   `json:"client_id"`
		Name      string   `json:"client_name"`
		URI       string   `json:"client_uri"`
		Redirects []string `json:"redirect_uris"`
		Method    string   `json:"token_endpoint_auth_method"`
		Secret    string   `json:"client_secret"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("the client metadata document is no JSON object of its kind")
	}
	switch {
	case doc.ClientID != id:
		return nil, errors.New("client_id in the client metadata document is not its address")
	case doc.Name == "" || len(doc.Redirects) == 0:
		return nil, errors.New("client_name or redirect_uris is missing in the client metadata document")
	case doc.Method != "" && doc.Method != "none", doc.Secret != "":
		return nil, errors.New("the client metadata document asks for a secret, which it cannot have")
	}
	for _, r := range doc.Redirects {
		if err := checkRedirect(r); err != nil {
			return nil, err
		}
	}
	return &client{id: id, name: doc.Name, uri: doc.URI, redirects: doc.Redirects,
		methods: []string{"none"}, consents: make(map[string][]string)}, nil
}

func (s *Server) deleteClient(c *client) {
	delete(s.clients, c.id)
	for sid, g := range s.grants.m {
		if g.client == c {
			s.grants.delete(sid)
		}
	}
}

// checkRedirect returns an error for a redirect address that cannot be registered.
// Three kinds can: https anywhere, http on loopback, and a private-use scheme with
// a dot (RFC 8252 §7).
func checkRedirect(raw string) error {
	if strings.Contains(raw, "#") {
		return errors.New("A redirect URI must not contain an URL fragment") //lint:ignore ST1005 Keycloak's text
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || strings.Contains(raw, "*") || u.User != nil:
	case u.Scheme == "https" && u.Host != "":
		return nil
	case u.Scheme == "http" && loopbackHost(u.Host):
		return nil
	case strings.Contains(u.Scheme, "."):
		return nil
	}
	return fmt.Errorf("A redirect URI is not a valid URI: %.200q", raw) //lint:ignore ST1005 Keycloak's text
}

// redirectAllowed reports whether asked is one of the registered addresses. As in
// Keycloak, a registered loopback address without a port matches any port (RFC 8252
// §7.3).
func redirectAllowed(registered []string, asked string) bool {
	if asked == "" || slices.Contains(registered, asked) {
		return asked != ""
	}
	u, err := url.Parse(asked)
	if err != nil || u.Scheme != "http" || !loopbackHost(u.Host) || u.User != nil {
		return false
	}
	host := u.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		if host = h; strings.Contains(h, ":") {
			host = "[" + h + "]"
		}
	}
	portless := "http://" + host + strings.TrimPrefix(asked, "http://"+u.Host)
	return slices.Contains(registered, portless)
}
