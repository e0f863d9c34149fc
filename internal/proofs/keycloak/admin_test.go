package keycloak

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// An admin is the administrator, at Keycloak's admin REST API.
type admin struct {
	*testenv.KeycloakServer
	t     *testing.T
	token string
}

type object = map[string]any

func asAdmin(t *testing.T, k *testenv.KeycloakServer) *admin {
	t.Helper()
	a := &admin{KeycloakServer: k, t: t}
	status, answer := post(t, k.Origin+"/realms/master/protocol/openid-connect/token", url.Values{
		"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"},
	})
	if status != http.StatusOK {
		t.Fatalf("sign in as the administrator: %d %v", status, answer["error"])
	}
	a.token = answer["access_token"].(string)
	return a
}

// do sends a request to path below the realm; in and out, which may be nil, are JSON.
func (a *admin) do(method, path string, in, out any) {
	a.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequest(method, a.Origin+"/admin/realms/astravue"+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := httpClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 {
		a.t.Fatalf("%s %s: %s %v %.300s", method, path, res.Status, err, answer)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			a.t.Fatal(err)
		}
	}
}

// change updates the representation at path, and again with the old one when the test ends.
func (a *admin) change(path string, with object) {
	a.t.Helper()
	var old object
	a.do("GET", path, nil, &old)
	now := object{}
	for name, value := range old {
		now[name] = value
	}
	for name, value := range with {
		now[name] = value
	}
	a.do("PUT", path, now, nil)
	t := a.t
	t.Cleanup(func() { asAdmin(t, a.KeycloakServer).do("PUT", path, old, nil) })
}

// client returns the path of a client.
func (a *admin) client(clientID string) string {
	a.t.Helper()
	var found []struct{ ID string }
	a.do("GET", "/clients?clientId="+url.QueryEscape(clientID), nil, &found)
	if len(found) != 1 {
		a.t.Fatalf("%d clients with ID %s", len(found), clientID)
	}
	return "/clients/" + found[0].ID
}

// user returns the path of a user.
func (a *admin) user(name string) string {
	a.t.Helper()
	var found []struct{ ID string }
	a.do("GET", "/users?exact=true&username="+name, nil, &found)
	if len(found) != 1 {
		a.t.Fatalf("%d users named %s", len(found), name)
	}
	return "/users/" + found[0].ID
}

// forget ends what earlier tests have left of a user: sessions, and consents.
func (a *admin) forget(name string) {
	a.t.Helper()
	path := a.user(name)
	a.do("POST", path+"/logout", nil, nil)
	var consents []struct{ ClientID string }
	a.do("GET", path+"/consents", nil, &consents)
	for _, c := range consents {
		a.do("DELETE", path+"/consents/"+c.ClientID, nil, nil)
	}
}

// clients counts the realm's clients.
func (a *admin) clients() int {
	a.t.Helper()
	var all []object
	a.do("GET", "/clients?max=1000", nil, &all)
	return len(all)
}

// policy returns the path of a client registration policy for anonymous requests.
func (a *admin) policy(provider string) string {
	a.t.Helper()
	var found []struct{ ID, ProviderID, SubType string }
	a.do("GET", "/components?type=org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy", nil, &found)
	for _, c := range found {
		if c.ProviderID == provider && c.SubType == "anonymous" {
			return "/components/" + c.ID
		}
	}
	a.t.Fatalf("no policy %s", provider)
	return ""
}

// without takes a policy away until the test ends.
func (a *admin) without(provider string) {
	a.t.Helper()
	path := a.policy(provider)
	var old object
	a.do("GET", path, nil, &old)
	a.do("DELETE", path, nil, nil)
	t := a.t
	t.Cleanup(func() { asAdmin(t, a.KeycloakServer).do("POST", "/components", old, nil) })
}

var httpClient = &http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends a form and reads a JSON object.
func post(t *testing.T, address string, form url.Values) (status int, answer object) {
	t.Helper()
	res, err := httpClient.Post(address, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	json.NewDecoder(res.Body).Decode(&answer) // a revocation answers with nothing
	return res.StatusCode, answer
}
