package mcpclient_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// BenchmarkCall is what a tool call costs through this package, beside one of
// the go-sdk with a header that never changes, against the same server. Both
// protocols: legacy answers are event streams.
func BenchmarkCall(b *testing.B) {
	for _, protocol := range []string{"modern", "legacy"} {
		srv, err := sandbox.Start(sandbox.Options{AutoApprove: true, Protocol: protocol})
		if err != nil {
			b.Fatal(err)
		}
		defer srv.Close()
		tokens, err := srv.Issue("olivia", sandbox.IssueOptions{})
		if err != nil {
			b.Fatal(err)
		}
		client := &mcpclient.Client{Server: srv.URL(), Store: &tokenstore.Memory{}, OpenBrowser: newBrowser().open}
		defer client.Close()
		fixed := &http.Client{Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
			return http.DefaultTransport.RoundTrip(r)
		})}
		for _, c := range []struct {
			name    string
			connect func(context.Context) (*mcp.ClientSession, error)
		}{
			{"mcpclient", client.Connect},
			{"fixed", func(ctx context.Context) (*mcp.ClientSession, error) {
				return mcp.NewClient(&mcp.Implementation{Name: "fixed", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{
					Endpoint: srv.URL(), HTTPClient: fixed, DisableStandaloneSSE: true,
				}, nil)
			}},
		} {
			b.Run(protocol+"/"+c.name, func(b *testing.B) {
				session, err := c.connect(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				defer session.Close()
				b.ReportAllocs()
				for b.Loop() {
					if err := callTool(b.Context(), session); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
