package rotation

import (
	"fmt"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// Eight processes have no session, and each may sign in: one browser is opened
// for all, and then all can call.
func TestManyProcessesOpenOneBrowser(t *testing.T) {
	eachStore(t, func(t *testing.T, p storeSpec) {
		const callers = 8
		var total callResult
		n := rounds()
		for round := range n {
			srv := startSandbox(t, sandbox.Options{AutoApprove: true})
			all := spawn(t, processes)
			got := all.do(t, callTask{Connect: &connectTask{Store: p, Server: srv.URL()}, Callers: callers, Leave: true})
			for _, p := range all {
				_ = p.Stop()
			}
			counts := srv.Counts()
			if got.Browsers != 1 || got.Called != processes*callers || counts.Grants != 1 || counts.Clients != 1 ||
				counts.Requests[sandbox.StepExchange] != 1 || counts.Requests[sandbox.StepRefresh] != 0 {
				t.Fatalf("round %d: %v; the server has %+v", round, got, counts)
			}
			total.add(got)
			_ = srv.Close()
			p.clear(t)
		}
		testenv.Count(t, "one browser", "store", p.Kind, "callers", fmt.Sprintf("%d × %d", processes, callers), "rounds", n, "browsers", total.Browsers,
			"sessions", n*processes, "calls", total.Called, "failed", len(total.Failed))
	})
}
