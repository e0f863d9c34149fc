package attacks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	mcpServer = "a hostile MCP server"
	theCPU    = "the embedder's processor, for half a minute or for good"
	theMemory = "the embedder's memory"
)

var wearAttacks = wearRows()

func wearRows() (rows []attack) {
	size := wearAnswers - 1024 // of what the bound just takes

	// Whole results, in one JSON document and as an event.
	for _, a := range []struct {
		id, does string
		ask      question
		method   string
		result   func() string
	}{
		{"deep-arrays", "8 MiB of arrays 900 deep as structured content", askTool, "tools/call",
			func() string { return `{"content":[],"structuredContent":{"a":[` + nested("[", "]", 900, size) + `]}}` }},
		{"deep-objects", "8 MiB of objects 900 deep as structured content", askTool, "tools/call",
			func() string {
				return `{"content":[],"structuredContent":{"a":[` + nested(`{"":`, "}", 900, size) + `]}}`
			}},
		{"deep-meta", "8 MiB of arrays 900 deep under `_meta`", askTool, "tools/call",
			func() string { return `{"content":[],"_meta":{"a":[` + nested("[", "]", 900, size) + `]}}` }},
		{"deep-schema", "a tool whose schema is 8 MiB, 900 deep", askTools, "tools/list",
			func() string {
				return `{"tools":[{"name":"x","inputSchema":{"type":"object","allOf":[` + nested(`{"not":`, "}", 900, size) + `]}}]}`
			}},
		{"numbers-at-63-levels", "4 million numbers under as many levels as pass", askTool, "tools/call",
			func() string {
				return `{"content":[],"structuredContent":{"a":` + strings.Repeat("[", 60) + repeated("1", size) + strings.Repeat("]", 60) + `}}`
			}},
		{"escapes-at-63-levels", "8 MiB of escapes under as many levels as pass", askTool, "tools/call",
			func() string {
				return `{"content":[],"structuredContent":{"a":` + strings.Repeat("[", 60) + `"` + strings.Repeat(`\u00e9`, size/6) + `"` + strings.Repeat("]", 60) + `}}`
			}},
		{"spaces-at-63-levels", "8 MiB of spaces under as many levels as pass", askTool, "tools/call",
			func() string {
				return `{"content":[],"structuredContent":{"a":` + strings.Repeat("[", 60) + strings.Repeat(" ", size) + strings.Repeat("]", 60) + `}}`
			}},
		{"empty-arrays", "2.7 million empty arrays, each of which takes 250 bytes of memory", askTool, "tools/call",
			func() string { return `{"content":[],"structuredContent":{"a":[` + repeated("[]", size) + `]}}` }},
		{"empty-objects", "2.7 million empty objects", askTool, "tools/call",
			func() string { return `{"content":[],"structuredContent":{"a":[` + repeated("{}", size) + `]}}` }},
		{"empty-contents", "2.7 million empty content blocks, each of which takes 300 bytes of memory", askTool, "tools/call",
			func() string { return `{"content":[` + repeated("{}", size) + `]}` }},
		{"empty-tools", "a page of 2.7 million empty tools, each checked with a decoder of its own", askTools, "tools/list",
			func() string { return `{"tools":[` + repeated("{}", size) + `]}` }},
		{"empty-icons", "a tool with 2.7 million empty icons", askTools, "tools/list",
			func() string {
				return `{"tools":[{"name":"x","inputSchema":{},"icons":[` + repeated("{}", size) + `]}]}`
			}},
		{"prompt-messages", "a prompt of 300,000 messages, each read with a decoder of its own", askPrompt, "prompts/get",
			func() string { return `{"messages":[` + repeated(`{"content":{"type":"text"}}`, size) + `]}` }},
		{"wide-object", "an object of 700,000 members", askTool, "tools/call",
			func() string {
				var b strings.Builder
				for i := 0; b.Len() < size-32; i++ {
					fmt.Fprintf(&b, `"%x":1,`, i)
				}
				return `{"content":[],"structuredContent":{` + b.String() + `"":1}}`
			}},
		{"one-name", "an object with one name 1.4 million times", askTool, "tools/call",
			func() string { return `{"content":[],"structuredContent":{` + repeated(`"a":1`, size) + `}}` }},
		{"digits", "a number of 8 million digits", askTool, "tools/call",
			func() string { return `{"content":[],"structuredContent":{"a":` + strings.Repeat("9", size-64) + `}}` }},
		{"exponents", "a million numbers 1e999999999", askTool, "tools/call",
			func() string {
				return `{"content":[],"structuredContent":{"a":[` + repeated("1e999999999", size) + `]}}`
			}},
	} {
		for _, form := range []struct {
			id, does string
			answer   wearAnswer
		}{
			{"json", "", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
				wearJSON(w, wearResult(id, a.result()))
			}},
			{"event", ", in an event of a stream that stays open", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
				wearEvents(w)
				fmt.Fprintf(w, "data: %s\n\n", wearResult(id, a.result()))
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done() // it hopes that somebody waits
			}},
		} {
			rows = append(rows, attack{
				id: "wear-" + a.id + "-" + form.id, who: mcpServer, gains: theCPU, does: "answers with " + a.does + form.does,
				play: func(t *testing.T) (bool, string) { return wears(t, a.method, a.ask, nil, form.answer) },
			})
		}
	}

	// Other answers to a tool call.
	deep := func(size int) string { return "[" + nested("[", "]", 900, size) + "]" }
	for _, a := range []struct {
		id, does string
		options  *mcp.ClientOptions
		answer   wearAnswer
	}{
		{"deep-id", "a response whose ID is 8 MiB of arrays 900 deep", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, `{"jsonrpc":"2.0","id":`+deep(size)+`,"result":{}}`)
		}},
		{"deep-id-event", "an event whose ID is 8 MiB of arrays 900 deep, and then no answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprintf(w, "data: %s\n\n", `{"jsonrpc":"2.0","id":`+deep(size)+`,"result":{}}`)
		}},
		{"deep-error", "a JSON-RPC error whose data is 8 MiB of arrays 900 deep", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-1,"message":"x","data":`+deep(size)+`}}`)
		}},
		{"deep-notice", "a log message of 8 MiB of arrays 900 deep, and then the answer", &mcp.ClientOptions{},
			func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
				wearEvents(w)
				fmt.Fprintf(w, "data: %s\n\n", `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":`+deep(size)+`}}`)
				fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
			}},
		{"deep-sampling", "a sampling request of 8 MiB of arrays 900 deep, and then the answer", &mcp.ClientOptions{}, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprintf(w, "data: %s\n\n", `{"jsonrpc":"2.0","id":"a","method":"sampling/createMessage","params":{"maxTokens":1,"messages":[],"metadata":`+deep(size)+`}}`)
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"deep-refusal", "HTTP 400 with a JSON-RPC message whose ID is 1 MiB of arrays 900 deep", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			w.WriteHeader(http.StatusBadRequest)
			wearJSON(w, `{"jsonrpc":"2.0","id":`+deep(mib-2048)+`,"error":{"code":-1,"message":"x"}}`)
		}},
		{"endless-refusal", "HTTP 400 with a JSON-RPC error and then 2 GiB of spaces, compressed to 2 MB", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "application/json", http.StatusBadRequest, zipped(`{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-1,"message":"x"}}`, ' ', 2048*mib))
		}},
		{"endless-403", "HTTP 403 with a JSON-RPC error and then 2 GiB of spaces, compressed to 2 MB", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "application/json", http.StatusForbidden, zipped(`{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-1,"message":"x"}}`, ' ', 2048*mib))
		}},
		{"arrays-7m", "7 million arrays in each other", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, wearResult(id, strings.Repeat("[", 7_000_000/part)))
		}},
		{"arrays-7m-event", "an event of 7 million arrays in each other, and then no answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, strings.Repeat("[", 7_000_000/part)))
		}},
		{"bomb-json", "2 GiB compressed to 2 MB, as one JSON document", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "application/json", http.StatusOK, zipped(`{"jsonrpc":"2.0","id":`+id+`,"result":"`, ' ', 2048*mib))
		}},
		{"bomb-line", "2 GiB compressed to 2 MB, as one line of an event", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "text/event-stream", http.StatusOK, zipped("data: ", ' ', 2048*mib))
		}},
		{"bomb-id", "an event whose ID is 10 MiB long", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprintf(w, "id: %s\ndata: %s\n\n", strings.Repeat("x", 10*mib/part), wearResult(id, `{"content":[]}`))
		}},
		{"bomb-html", "2 GiB compressed to 2 MB, as an HTML page", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "text/html", http.StatusOK, zipped("<p>", 'x', 2048*mib))
		}},
		{"headers", "9 MiB of header lines", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			for i := range 9 * mib / part / 32 {
				w.Header()[fmt.Sprintf("X-%x", i)] = []string{"0123456789abcdef"}
			}
			wearJSON(w, wearResult(id, `{"content":[]}`))
		}},
		{"header", "a header line of 9 MiB", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			w.Header().Set("X", strings.Repeat("x", 9*mib/part))
			wearJSON(w, wearResult(id, `{"content":[]}`))
		}},
		{"challenge-parameters", "HTTP 401 with a challenge of 600,000 parameters", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			w.Header().Set("WWW-Authenticate", "Bearer "+repeated("a=b", 2_400_000/part))
			w.WriteHeader(http.StatusUnauthorized)
		}},
		{"challenge-scopes", "HTTP 403 with a challenge that asks for 60,000 scopes", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			var b strings.Builder
			for i := range 45_000 {
				fmt.Fprintf(&b, "%x ", i)
			}
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+b.String()+`"`)
			w.WriteHeader(http.StatusForbidden)
		}},
		{"challenge-lines", "HTTP 401 with 10,000 challenges that are cut off", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			for range 10_000 {
				w.Header().Add("WWW-Authenticate", `Basic a="b`)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}},
		{"data-lines", "an event of 300,000 data lines, and then the answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprint(w, strings.Repeat("data: \n", 300_000/part))
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"notices", "10,000 notices before the answer", &mcp.ClientOptions{}, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			some := strings.Repeat(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":1}}`+"\n\n", 1000)
			for range max(1, 10/part) {
				fmt.Fprint(w, some)
			}
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"comments", "200,000 comments before the answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			some := strings.Repeat(": nothing\n\n", 1000)
			for range 200 {
				fmt.Fprint(w, some)
			}
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"ids", "200,000 events with an ID alone before the answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			for i := range 200 {
				fmt.Fprint(w, strings.Repeat(fmt.Sprintf("id: %x\n\n", i), 1000))
			}
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"retry", "events that ask to wait for 2^31, 2^64 and -1 milliseconds before the answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			fmt.Fprintf(w, "retry: 2147483648\n\nretry: 18446744073709551616\n\nretry: -1\n\ndata: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"no-messages", "200,000 events that are no messages before the answer, each of which is logged", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			some := strings.Repeat("data: x\n\n", 1000)
			for range 200 / part {
				fmt.Fprint(w, some)
			}
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
		{"others-responses", "100,000 responses to other requests before the answer", nil, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearEvents(w)
			some := strings.Repeat("data: "+wearResult(`"other"`, "{}")+"\n\n", 1000)
			for range 100 / part {
				fmt.Fprint(w, some)
			}
			fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
		}},
	} {
		rows = append(rows, attack{
			id: "wear-" + a.id, who: mcpServer, gains: theCPU + ", or " + theMemory, does: "answers a call with " + a.does,
			play: func(t *testing.T) (bool, string) { return wears(t, "tools/call", askTool, a.options, a.answer) },
		})
	}

	// Questions to a person.
	asks := &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		return &mcp.ElicitResult{Action: "decline"}, nil
	}}
	for _, a := range []struct {
		id, does string
		schema   func() string
	}{
		{"members", "300,000 members", func() string {
			var b strings.Builder
			for i := range 300_000 / part {
				fmt.Fprintf(&b, `"%x":{"type":"string"},`, i)
			}
			return `{"type":"object","properties":{` + b.String() + `"":{"type":"string"}}}`
		}},
		{"pattern", "a pattern of 6 MiB", func() string {
			return `{"type":"object","properties":{"a":{"type":"string","pattern":"` + strings.Repeat("a{1,9}", mib/part) + `"}}}`
		}},
		{"levels", "25 objects in each other around a million values", func() string {
			return strings.Repeat(`{"type":"object","properties":{"a":`, 25) + `{"enum":[` + repeated("1", mib/part) + `]}` + strings.Repeat("}}", 25)
		}},
	} {
		rows = append(rows, attack{
			id: "wear-question-" + a.id, who: mcpServer, gains: theCPU, does: "asks the user something with a schema of " + a.does + ", and then answers",
			play: func(t *testing.T) (bool, string) {
				return wears(t, "tools/call", askTool, asks, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
					wearEvents(w)
					fmt.Fprintf(w, "data: %s\n\n", `{"jsonrpc":"2.0","id":"a","method":"elicitation/create","params":{"message":"x","requestedSchema":`+a.schema()+`}}`)
					_ = http.NewResponseController(w).Flush()
					time.Sleep(50 * time.Millisecond) // for the handler to be at work
					fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
				})
			},
		})
	}

	// Lists without an end.
	for _, l := range []struct {
		method, member string
		ask            question
	}{
		{"tools/list", "tools", askTools},
		{"prompts/list", "prompts", askPrompts},
		{"resources/list", "resources", askResources},
		{"resources/templates/list", "resourceTemplates", askTemplates},
	} {
		for _, a := range []struct {
			id, does string
			next     func(n int) string
			items    string
		}{
			{"cursor-stands", "a cursor that does not advance", func(int) string { return "a" }, ""},
			{"cursor-returns", "cursors that lead around in a circle of 20", func(n int) string { return fmt.Sprint(n % 20) }, ""},
			{"cursor-new", "a new cursor each time", func(n int) string { return fmt.Sprint(n) }, ""},
			{"cursor-large", "a new cursor of 1 MiB each time", func(n int) string { return fmt.Sprint(n, strings.Repeat("x", mib/part)) }, ""},
			{"pages-large", "a new cursor and 4 MiB of text each time", func(n int) string { return fmt.Sprint(n) }, `{"name":"a","inputSchema":{"type":"object"},"description":"` + strings.Repeat("x", 4*mib/part) + `"}`},
			{"pages-many", "a new cursor and 10,000 items each time", func(n int) string { return fmt.Sprint(n) }, repeated(`{"name":"a"}`, 130_000/part)},
		} {
			rows = append(rows, attack{
				id: "wear-" + strings.ReplaceAll(strings.TrimSuffix(l.method, "/list"), "/", "-") + "-" + a.id, who: mcpServer, gains: "a list that never ends: " + theMemory + ", and 22 requests a second",
				does: "answers " + l.method + " with " + a.does,
				play: func(t *testing.T) (bool, string) {
					n := 0
					client := &mcpclient.Client{MaxAnswer: wearAnswers}
					return wearsAll(t, client, 4, l.method, l.ask, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
						n++
						wearJSON(w, wearResult(id, fmt.Sprintf(`{"%s":[%s],"nextCursor":"%s"}`, l.member, a.items, a.next(n))))
					})
				},
			})
		}
	}
	rows = append(rows, attack{
		id: "wear-cursor-twice-named", who: mcpServer, gains: "a list that never ends",
		does: "names nextCursor in small letters and in capitals, so that a check sees another cursor than the SDK",
		play: func(t *testing.T) (bool, string) {
			return wearsAll(t, &mcpclient.Client{}, 4, "tools/list", askTools, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
				wearJSON(w, wearResult(id, `{"tools":[],"nextCursor":"","next\u0043ursor":"a","NEXTCURSOR":""}`))
			})
		},
	})

	rows = append(rows,
		attack{
			id: "wear-pings", who: mcpServer, gains: "as many connections and goroutines as it likes",
			does: "sends 5,000 pings before the answer, and does not take the replies",
			play: func(t *testing.T) (bool, string) { return playRequests(t, "ping", "{}", true, nil) },
		},
		attack{
			id: "wear-questions", who: mcpServer, gains: "as many pages in front of the user as it likes",
			does: "asks the user 5,000 things before the answer",
			play: func(t *testing.T) (bool, string) {
				wait := make(chan struct{})
				t.Cleanup(func() { close(wait) })
				return playRequests(t, "elicitation/create", `{"message":"x"}`, true, &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					<-wait
					return &mcp.ElicitResult{Action: "decline"}, nil
				}})
			},
		},
		attack{
			id: "wear-pings-one-id", who: mcpServer, gains: "as many connections and goroutines as it likes",
			does: "sends 5,000 pings under one ID before the answer, and does not take the replies",
			play: func(t *testing.T) (bool, string) { return playRequests(t, "ping", "{}", false, nil) },
		},
		attack{
			id: "wear-drip", who: mcpServer, gains: "a call that never ends",
			does: "answers one byte at a time, with no end",
			play: func(t *testing.T) (bool, string) {
				return playDeadline(t, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
					wearEvents(w)
					for r.Context().Err() == nil {
						fmt.Fprint(w, "x")
						_ = http.NewResponseController(w).Flush()
						time.Sleep(10 * time.Millisecond)
					}
				})
			},
		},
		attack{
			id: "wear-resume-loop", who: mcpServer, gains: "a call that never ends, and requests without a pause",
			does: "ends each stream after an event with an ID, so that it is resumed",
			play: func(t *testing.T) (bool, string) {
				return playDeadline(t, func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
					wearEvents(w)
					fmt.Fprint(w, "id: 1\n\n")
				})
			},
		},
		attack{
			id: "wear-floods-for-good", who: mcpServer, gains: "the embedder's processor for as long as a call lasts",
			does:   "sends notices without an end, and no answer",
			stands: "A client reads everything that a server sends while the context of the call lasts: `Client.Connect` says so. Memory stays flat",
			play: func(t *testing.T) (bool, string) {
				s := newWearServer(t)
				session := wearSession(t, s.url, nil)
				s.set("tools/call", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
					wearEvents(w)
					some := strings.Repeat(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":1}}`+"\n\n", 100)
					for r.Context().Err() == nil {
						fmt.Fprint(w, some)
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				var err error
				_, memory := cost(func() { err = askTool(ctx, session) })
				if !errors.Is(err, context.DeadlineExceeded) || memory > mostMemory {
					t.Errorf("%v, %d MiB", err, memory/mib)
				}
				return true, wearEnded(err)
			},
		},
	)

	// Documents of a sign-in.
	for _, a := range []struct {
		id, does string
		document wearAnswer
	}{
		{"tokens", "1 MiB of numbers", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, `{"a":[`+repeated("1", (mib-16)/part)+`]}`)
		}},
		{"names", "an object of 90,000 names", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			var b strings.Builder
			for i := 0; b.Len() < (mib-32)/part; i++ {
				fmt.Fprintf(&b, `"%x":1,`, i)
			}
			wearJSON(w, `{`+b.String()+`"":1}`)
		}},
		{"scopes", "200,000 scopes", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, `{"resource":"http://`+r.Host+`/mcp","authorization_servers":["http://`+r.Host+`"],"scopes_supported":[`+repeated(`"a"`, 800_000/part)+`]}`)
		}},
		{"deep", "1 MiB of arrays 500,000 deep", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearJSON(w, strings.Repeat("[", mib-1))
		}},
		{"bomb", "2 GiB compressed to 2 MB", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			wearZipped(w, "application/json", http.StatusOK, zipped(`{"a":"`, ' ', 2048*mib))
		}},
	} {
		rows = append(rows, attack{
			id: "wear-metadata-" + a.id, who: mcpServer, gains: theCPU + ", or " + theMemory, does: "serves each metadata document with " + a.does,
			play: func(t *testing.T) (bool, string) {
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/.well-known/") {
						a.document(w, r, "", nil)
						return
					}
					w.WriteHeader(http.StatusUnauthorized)
				}))
				t.Cleanup(srv.Close)
				c := &mcpclient.Client{Server: srv.URL + "/mcp", Store: &tokenstore.Memory{}, OpenBrowser: func(context.Context, string) error { return nil }}
				var err error
				used, memory := cost(func() { err = c.Login(t.Context(), nil) })
				t.Logf("%v of the processor, %d MiB: %.200v", used, memory/mib, err)
				if err == nil || used > mostSpent || memory > mostMemory {
					return true, "it takes more than a document may"
				}
				if errors.As(err, new(*discovery.NotFoundError)) {
					return false, "the sign-in fails with `*discovery.NotFoundError`"
				}
				return false, "the sign-in fails"
			},
		})
	}
	return rows
}

// playRequests sends many requests before the answer to a call.
func playRequests(t *testing.T, method, params string, each bool, options *mcp.ClientOptions) (bool, string) {
	s := newWearServer(t)
	session := wearSession(t, s.url, options)
	s.set("tools/call", func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
		wearEvents(w)
		for i := range 5000 {
			if !each {
				i = 0
			}
			fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"r%d\",\"method\":\"%s\",\"params\":%s}\n\n", i, method, params)
		}
		fmt.Fprintf(w, "data: %s\n\n", wearResult(id, `{"content":[]}`))
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := askTool(ctx, session)
	time.Sleep(100 * time.Millisecond) // for the last of the replies
	s.mu.Lock()
	most := s.most
	s.mu.Unlock()
	if most > 100 || err != nil {
		return true, "more than 100 replies are under way at a time"
	}
	s.set("tools/call", nil)
	if err := askTool(ctx, session); err != nil {
		return true, "the session is lost"
	}
	return false, "no more than 100 are with the SDK at a time; the call succeeds; the session goes on"
}

// playDeadline plays an answer without an end to a call with a deadline.
func playDeadline(t *testing.T, answer wearAnswer) (bool, string) {
	s := newWearServer(t)
	gets := 0
	s.get = func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		gets++
		s.mu.Unlock()
		answer(w, r, "", nil)
	}
	session := wearSession(t, s.url, nil)
	s.set("tools/call", answer)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := askTool(ctx, session)
	s.set("tools/call", nil)
	s.mu.Lock()
	n := gets
	s.mu.Unlock()
	switch {
	case time.Since(start) > 30*time.Second:
		return true, "the call outlives its deadline"
	case n > 3:
		return true, "it is asked without a pause"
	}
	if askTool(t.Context(), session) != nil {
		return true, "the session is lost"
	}
	return false, wearEnded(err) + "; the session goes on"
}
