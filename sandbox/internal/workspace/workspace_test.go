package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A studio is a workspace with a clock that a test moves.
type studio struct {
	*Workspace
	t      *testing.T
	offset atomic.Int64
}

// friday is the time at which tests begin.
var friday = time.Date(2026, 3, 6, 15, 4, 5, 678, time.FixedZone("", 3600))

func open(t *testing.T) *studio {
	s := &studio{t: t}
	s.Workspace = New(func() time.Time { return friday.Add(time.Duration(s.offset.Load())) })
	return s
}

func (s *studio) advance(d time.Duration) { s.offset.Add(int64(d)) }

type args = map[string]any

// A desk is a user's real MCP client, connected to the workspace.
type desk struct {
	*mcp.ClientSession
	t *testing.T
}

func (s *studio) as(user string) desk {
	s.t.Helper()
	i := slices.IndexFunc(Users(), func(u User) bool { return u.ID == user })
	server := s.MCPServer(func(context.Context, mcp.Request) (User, bool) {
		if i < 0 {
			return User{}, false
		}
		return Users()[i], true
	})
	ct, st := mcp.NewInMemoryTransports()
	if _, err := server.Connect(s.t.Context(), st, nil); err != nil {
		s.t.Fatal(err)
	}
	return connect(s.t, ct, "")
}

func connect(t *testing.T, transport mcp.Transport, version string) desk {
	t.Helper()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).
		Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return desk{session, t}
}

func (d desk) try(tool string, a args) *mcp.CallToolResult {
	d.t.Helper()
	if a == nil {
		a = args{}
	}
	res, err := d.CallTool(d.t.Context(), &mcp.CallToolParams{Name: tool, Arguments: a})
	if err != nil {
		d.t.Fatalf("%s: %v", tool, err)
	}
	if len(res.Content) == 0 || res.Content[0].(*mcp.TextContent).Text == "" {
		d.t.Errorf("%s returned no text", tool)
	}
	return res
}

// do calls a tool that must succeed, and returns its structured result.
func do[T any](d desk, tool string, a args) T {
	d.t.Helper()
	res := d.try(tool, a)
	if res.IsError {
		d.t.Fatalf("%s(%v): %s", tool, a, res.Content[0].(*mcp.TextContent).Text)
	}
	b, err := json.Marshal(res.StructuredContent)
	if err != nil {
		d.t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(b, &out); err != nil {
		d.t.Fatalf("%s: %v", tool, err)
	}
	return out
}

// refused calls a tool that must answer with an error of one sentence.
func (d desk) refused(tool string, a args) {
	d.t.Helper()
	res := d.try(tool, a)
	text := res.Content[0].(*mcp.TextContent).Text
	if !res.IsError {
		d.t.Errorf("%s(%v) succeeded: %s", tool, a, text)
	} else if res.StructuredContent != nil || strings.Contains(text, "\n") || strings.HasSuffix(text, ".") {
		d.t.Errorf("%s(%v): not one sentence, or a result beside it: %q", tool, a, text)
	}
}

func ids[T row](rows []T) []string {
	var s []string
	for _, r := range rows {
		s = append(s, r.id())
	}
	return s
}

// everyTool holds arguments for a successful call of each tool, by Mia, or by Olivia
// if Mia's role does not allow it.
var everyTool = []struct {
	tool string
	args args
	user string
}{
	{"list_spaces", args{"query": "CLIENT"}, "mia"},
	{"get_space", args{"id": "space-1"}, "mia"},
	{"create_space", args{"name": "Research", "description": "Paid by nobody."}, "olivia"},
	{"update_space", args{"id": "space-4", "name": "Laboratory"}, "olivia"},
	{"delete_space", args{"id": "space-4"}, "olivia"},
	{"list_projects", args{"space_id": "space-1", "status": "active", "query": "museum"}, "mia"},
	{"get_project", args{"id": "project-1"}, "mia"},
	{"create_project", args{"space_id": "space-3", "name": "Roof garden", "due_date": "2026-06-01", "member_ids": []string{"noah", "mia", "noah"}}, "olivia"},
	{"update_project", args{"id": "project-8", "space_id": "space-2", "status": "on_hold", "due_date": ""}, "olivia"},
	{"delete_project", args{"id": "project-8"}, "olivia"},
	{"list_project_tasks", args{"project_id": "project-1", "assignee_id": "me", "status": "in_progress", "priority": "high", "due_before": "2027-01-01", "query": "design"}, "mia"},
	{"get_project_task", args{"id": "task-1"}, "mia"},
	{"create_project_task", args{"project_id": "project-1", "title": "Check the footer", "assignee_id": "me", "estimate_seconds": 3600}, "mia"},
	{"update_project_task", args{"id": "task-33", "status": "in_progress", "assignee_id": "noah"}, "mia"},
	{"start_project_task_timer", args{"task_id": "task-33", "note": "On a phone"}, "mia"},
	{"list_active_timers", nil, "mia"},
	{"stop_project_task_timer", args{"task_id": "task-33"}, "mia"},
	{"list_task_comments", args{"task_id": "task-1"}, "mia"},
	{"list_project_task_subtasks", args{"task_id": "task-1"}, "mia"},
	{"list_task_checklists", args{"task_id": "task-1"}, "mia"},
	{"list_subtask_checklists", args{"subtask_id": "subtask-3"}, "mia"},
	{"delete_project_task", args{"id": "task-33"}, "mia"},
	{"list_personal_tasks", args{"status": "todo"}, "mia"},
	{"get_personal_task", args{"id": "personal-5"}, "mia"},
	{"create_personal_task", args{"title": "Water the plants", "priority": "urgent", "due_date": "2026-03-07"}, "mia"},
	{"update_personal_task", args{"id": "personal-5", "title": "Choose portfolio pieces"}, "mia"},
	{"start_personal_task_timer", args{"task_id": "personal-5"}, "mia"},
	{"stop_personal_task_timer", args{"task_id": "personal-5"}, "mia"},
	{"list_personal_task_subtasks", args{"task_id": "personal-5"}, "mia"},
	{"delete_personal_task", args{"id": "personal-6"}, "mia"},
	{"add_manual_time_entry", args{"task_id": "task-1", "date": "2026-03-06", "duration_seconds": 1800}, "mia"},
	{"add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-06T08:00:00Z", "ended_at": "2026-03-06T10:00:00+01:00"}, "mia"},
	{"update_timer", args{"id": "timer-1", "note": "Reading"}, "olivia"},
	{"delete_timer", args{"id": "timer-1"}, "olivia"},
	{"list_task_timers", args{"task_id": "task-1", "user_id": "mia"}, "olivia"},
	{"get_timesheet_report", args{"from": "2026-03-01", "to": "2026-03-06"}, "mia"},
	{"get_project_timesheet", args{"project_id": "project-1", "limit": 3}, "mia"},
	{"get_project_timesheet_summary", args{"project_id": "project-1"}, "mia"},
	{"list_notifications", args{"unread_only": true}, "mia"},
	{"mark_notification_read", args{"id": "notification-6"}, "mia"},
	{"delete_notification", args{"id": "notification-6"}, "mia"},
	{"list_mentions", nil, "mia"},
	{"mark_mention_read", args{"id": "mention-6"}, "mia"},
	{"delete_mention", args{"id": "mention-1"}, "mia"},
}

func TestEveryToolIsDescribedAndWorks(t *testing.T) {
	s := open(t)
	desks := map[string]desk{"mia": s.as("mia"), "olivia": s.as("olivia")}
	changes := map[string]bool{} // by tool: whether a call changed the workspace
	for _, c := range everyTool {
		before := s.dump()
		res := desks[c.user].try(c.tool, c.args)
		changes[c.tool] = s.dump() != before
		if res.IsError {
			t.Errorf("%s: %s", c.tool, res.Content[0].(*mcp.TextContent).Text)
		}
		if m, ok := res.StructuredContent.(map[string]any); !ok || strings.HasPrefix(c.tool, "list_") && m["total"] == 0.0 {
			t.Errorf("%s(%v) found nothing", c.tool, c.args)
		}
	}
	for tool, err := range desks["mia"].Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		a := tool.Annotations
		if changed, called := changes[tool.Name]; !called || changed == a.ReadOnlyHint {
			t.Errorf("%s: called: %v, changed the workspace: %v, readOnlyHint: %v", tool.Name, called, changed, a.ReadOnlyHint)
		}
		delete(changes, tool.Name)
		if tool.Title == "" || !strings.HasSuffix(tool.Description, ".") || a.OpenWorldHint == nil || *a.OpenWorldHint ||
			!a.ReadOnlyHint && a.DestructiveHint == nil {
			t.Errorf("%s is not described: %+v", tool.Name, tool)
		}
		if deletes := strings.HasPrefix(tool.Name, "delete_"); deletes && !*a.DestructiveHint {
			t.Errorf("%s is not destructive", tool.Name)
		}
		for _, schema := range []any{tool.InputSchema, tool.OutputSchema} {
			if m, ok := schema.(map[string]any); !ok || m["type"] != "object" || m["additionalProperties"] == nil {
				t.Errorf("%s: schema %v", tool.Name, schema)
			}
			if b, _ := json.Marshal(schema); strings.Contains(string(b), `"null"`) {
				t.Errorf("%s: schema allows null: %s", tool.Name, b)
			}
		}
	}
	if len(changes) > 0 {
		t.Errorf("not listed: %v", slices.Collect(maps.Keys(changes)))
	}
}

// dump returns all rows of the workspace as text.
func (s *studio) dump() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%+v", []any{s.spaces, s.projects, s.tasks, s.personal, s.subtasks, s.checklists, s.comments, s.timers, s.notifications, s.mentions})
}

// reset brings back the rows that a new workspace has.
func (s *studio) reset() {
	n := New(s.now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spaces, s.projects, s.tasks, s.personal, s.subtasks = n.spaces, n.projects, n.tasks, n.personal, n.subtasks
	s.checklists, s.comments, s.timers, s.notifications, s.mentions = n.checklists, n.comments, n.timers, n.notifications, n.mentions
}

func TestRoles(t *testing.T) {
	s := open(t)
	all := []string{"olivia", "adam", "mia", "noah"}
	desks := map[string]desk{}
	for _, user := range all {
		desks[user] = s.as(user)
	}
	for _, c := range []struct {
		tool string
		args args
		may  []string
	}{
		{"create_space", args{"name": "x"}, all[:2]},
		{"update_space", args{"id": "space-1", "name": "x"}, all[:2]},
		{"delete_space", args{"id": "space-4"}, all[:1]},
		{"get_space", args{"id": "space-3"}, all[:2]},
		{"create_project", args{"space_id": "space-1", "name": "x"}, all[:2]},
		{"update_project", args{"id": "project-1", "name": "x"}, all[:2]},
		{"delete_project", args{"id": "project-1"}, all[:2]},
		{"get_project", args{"id": "project-1"}, all},
		{"get_project", args{"id": "project-5"}, []string{"olivia", "adam", "mia"}},
		{"create_project_task", args{"project_id": "project-1", "title": "x"}, all},
		{"create_project_task", args{"project_id": "project-3", "title": "x"}, []string{"olivia", "adam", "noah"}},
		{"update_project_task", args{"id": "task-1", "title": "x"}, []string{"olivia", "adam", "mia"}},
		{"delete_project_task", args{"id": "task-1"}, []string{"olivia", "adam", "mia"}},
		{"get_project_task", args{"id": "task-12"}, []string{"olivia", "adam", "noah"}},
		{"list_task_comments", args{"task_id": "task-12"}, []string{"olivia", "adam", "noah"}},
		{"list_project_task_subtasks", args{"task_id": "task-12"}, []string{"olivia", "adam", "noah"}},
		{"list_subtask_checklists", args{"subtask_id": "subtask-3"}, all},
		{"list_task_checklists", args{"task_id": "personal-1"}, all[:1]},
		{"get_personal_task", args{"id": "personal-5"}, []string{"mia"}},
		{"update_personal_task", args{"id": "personal-5", "title": "x"}, []string{"mia"}},
		{"delete_personal_task", args{"id": "personal-5"}, []string{"mia"}},
		{"list_personal_task_subtasks", args{"task_id": "personal-5"}, []string{"mia"}},
		{"start_personal_task_timer", args{"task_id": "personal-5"}, []string{"mia"}},
		{"add_manual_time_entry", args{"task_id": "task-12", "date": "2026-03-01", "duration_seconds": 60}, []string{"olivia", "adam", "noah"}},
		{"update_timer", args{"id": "timer-4", "note": "x"}, []string{"olivia", "adam", "mia"}},
		{"delete_timer", args{"id": "timer-4"}, []string{"olivia", "adam", "mia"}},
		{"list_task_timers", args{"task_id": "task-1", "user_id": "mia"}, []string{"olivia", "adam", "mia"}},
		{"list_active_timers", args{"user_id": "noah"}, []string{"olivia", "adam", "noah"}},
		{"get_timesheet_report", args{"user_id": "mia"}, []string{"olivia", "adam", "mia"}},
		{"get_project_timesheet", args{"project_id": "project-6"}, all[:2]},
		{"get_project_timesheet_summary", args{"project_id": "project-6"}, all[:2]},
		{"mark_mention_read", args{"id": "mention-1"}, []string{"mia"}},
		{"delete_notification", args{"id": "notification-1"}, []string{"mia"}},
	} {
		for _, user := range all {
			s.reset()
			do[space](desks["olivia"], "create_space", args{"name": "Empty"})
			before := s.dump()
			res := desks[user].try(c.tool, c.args)
			if may := slices.Contains(c.may, user); may == res.IsError {
				t.Errorf("%s(%v) by %s: error %v: %s", c.tool, c.args, user, res.IsError, res.Content[0].(*mcp.TextContent).Text)
			} else if !may && s.dump() != before {
				t.Errorf("%s(%v) by %s was refused and done", c.tool, c.args, user)
			}
		}
	}
	nobody := s.as("stranger")
	nobody.refused("list_projects", nil)
	if _, err := nobody.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uriOverview}); err == nil {
		t.Error("a stranger read the overview")
	}
}

func TestViews(t *testing.T) {
	s := open(t)
	for user, want := range map[string]struct {
		spaces, projects []string
		personal         int
	}{
		"olivia": {[]string{"space-1", "space-2", "space-3"}, []string{"project-1", "project-2", "project-3", "project-4", "project-5", "project-6", "project-7"}, 2},
		"adam":   {[]string{"space-1", "space-2", "space-3"}, []string{"project-1", "project-2", "project-3", "project-4", "project-5", "project-6", "project-7"}, 2},
		"mia":    {[]string{"space-1", "space-2"}, []string{"project-1", "project-2", "project-4", "project-5"}, 3},
		"noah":   {[]string{"space-1", "space-2"}, []string{"project-1", "project-3", "project-4"}, 2},
	} {
		d := s.as(user)
		if got := ids(do[list[space]](d, "list_spaces", nil).Items); !slices.Equal(got, want.spaces) {
			t.Errorf("%s sees the spaces %v", user, got)
		}
		if got := ids(do[list[project]](d, "list_projects", nil).Items); !slices.Equal(got, want.projects) {
			t.Errorf("%s sees the projects %v", user, got)
		}
		for _, task := range do[list[projectTask]](d, "list_project_tasks", args{"limit": 100}).Items {
			if !slices.Contains(want.projects, task.ProjectID) {
				t.Errorf("%s sees %s of %s", user, task.ID, task.ProjectID)
			}
		}
		if got := do[list[personalTask]](d, "list_personal_tasks", nil); got.Total != want.personal {
			t.Errorf("%s has %d personal tasks", user, got.Total)
		}
		manager := strings.Contains("olivia adam", user)
		report := do[sheet](d, "get_timesheet_report", args{"from": "2026-02-01", "limit": 100})
		if users := len(report.ByUser); manager && users != 4 || !manager && users != 1 {
			t.Errorf("%s sees the time of %v", user, report.ByUser)
		}
		for _, tool := range []string{"list_notifications", "list_mentions"} {
			got := do[list[notice]](d, tool, nil)
			if got.Total == 0 {
				t.Errorf("%s: nothing for %s", tool, user)
			}
			for _, n := range got.Items {
				if n.UserID != user {
					t.Errorf("%s: %s sees what is for %s", tool, user, n.UserID)
				}
			}
		}
	}
}

func TestSeed(t *testing.T) {
	a, b := open(t), open(t)
	if d := cmp.Diff(a.dump(), b.dump()); d != "" {
		t.Errorf("two workspaces of the same time differ:\n%s", d)
	}
	weekday := friday
	for range 7 {
		weekday = weekday.Add(25 * time.Hour)
		w := New(func() time.Time { return weekday })
		if !slices.Equal(ids(w.timers.rows), ids(a.timers.rows)) {
			t.Errorf("on %s there are %d timers", weekday.Weekday(), len(w.timers.rows))
		}
		// The seed obeys the rules: each of its timers can be saved again.
		for _, u := range Users() {
			c := &call{w, u, w.time()}
			for _, r := range slices.Clone(w.timers.rows) {
				if r.UserID == u.ID {
					if _, err := c.save(r); err != nil {
						t.Errorf("%s: %v", r, err)
					}
				}
			}
		}
		for _, r := range w.tasks.rows {
			if _, err := (&call{w, Users()[0], w.time()}).assignable(r.AssigneeID, r.ProjectID); err != nil {
				t.Error(err)
			}
			if r.CreatedAt.After(w.time()) || r.UpdatedAt.After(w.time()) {
				t.Errorf("%s is from the future", r.ID)
			}
		}
	}
	if s, p, n := len(a.spaces.rows), len(a.projects.rows), len(a.tasks.rows)+len(a.personal.rows); s != 3 || p != 7 || n < 40 {
		t.Errorf("%d spaces, %d projects, %d tasks", s, p, n)
	}
}

func TestPages(t *testing.T) {
	s := open(t)
	d := s.as("olivia")
	for _, tool := range []string{"list_project_tasks", "list_notifications"} {
		whole := do[list[ident2]](d, tool, args{"limit": 100})
		var paged []string
		cursor := ""
		for {
			l := do[list[ident2]](d, tool, args{"limit": 3, "cursor": cursor})
			if len(l.Items) > 3 || l.Total != whole.Total {
				t.Fatalf("%s: a page of %d, total %d", tool, len(l.Items), l.Total)
			}
			paged = append(paged, ids(l.Items)...)
			if cursor = l.NextCursor; cursor == "" {
				break
			}
		}
		if !slices.Equal(paged, ids(whole.Items)) || len(paged) != whole.Total || whole.Total == 0 {
			t.Errorf("%s: in pages %v, whole %v", tool, paged, ids(whole.Items))
		}
	}

	// The second page is right even if the cursor's row was deleted and another added.
	first := do[list[projectTask]](d, "list_project_tasks", args{"limit": 2})
	do[deleted](d, "delete_project_task", args{"id": first.Items[1].ID})
	do[projectTask](d, "create_project_task", args{"project_id": "project-1", "title": "New"})
	if second := do[list[projectTask]](d, "list_project_tasks", args{"limit": 2, "cursor": first.NextCursor}); second.Items[0].ID != "task-3" {
		t.Errorf("after a deletion the second page is %v", second)
	}
	if l := do[list[projectTask]](d, "list_project_tasks", nil); len(l.Items) != defaultLimit {
		t.Errorf("without a limit a page has %d rows", len(l.Items))
	}
	for _, a := range []args{{"cursor": "%"}, {"cursor": "eA"}, {"cursor": do[list[ident2]](d, "list_spaces", args{"limit": 1}).NextCursor},
		{"limit": 0}, {"limit": 101}, {"limit": "many"}} {
		d.refused("list_project_tasks", a)
	}
}

// ident2 decodes the identifier of any row.
type ident2 struct{ ident }

func (ident2) String() string { return "" }

func TestFilters(t *testing.T) {
	d := open(t).as("olivia")
	for _, c := range []struct {
		args args
		is   func(projectTask) bool
	}{
		{args{"project_id": "project-4"}, func(t projectTask) bool { return t.ProjectID == "project-4" }},
		{args{"assignee_id": "noah"}, func(t projectTask) bool { return t.AssigneeID == "noah" }},
		{args{"assignee_id": "me"}, func(t projectTask) bool { return t.AssigneeID == "olivia" }},
		{args{"status": "done"}, func(t projectTask) bool { return t.Status == "done" }},
		{args{"priority": "urgent"}, func(t projectTask) bool { return t.Priority == "urgent" }},
		{args{"due_before": "2026-03-08"}, func(t projectTask) bool { return t.DueDate != "" && t.DueDate <= "2026-03-07" }},
		{args{"query": "THE "}, func(t projectTask) bool { return strings.Contains(strings.ToLower(string(t.Title)), "the ") }},
	} {
		all := do[list[projectTask]](d, "list_project_tasks", args{"limit": 100}).Items
		c.args["limit"] = 100
		want := ids(slices.DeleteFunc(all, func(t projectTask) bool { return !c.is(t) }))
		if got := ids(do[list[projectTask]](d, "list_project_tasks", c.args).Items); !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%v: %v, want %v", c.args, got, want)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	s := open(t)
	d := s.as("olivia")
	before := s.dump()
	for _, c := range []struct {
		tool string
		args args
	}{
		{"get_project", nil},
		{"get_project", args{"id": "project-99"}},
		{"get_project", args{"id": "project-1", "extra": true}},
		{"get_project", args{"id": nil}},
		{"create_space", args{"name": ""}},
		{"create_space", args{"name": strings.Repeat("x", 201)}},
		{"delete_space", args{"id": "space-1"}}, // it has projects
		{"create_project", args{"space_id": "space-9", "name": "x"}},
		{"create_project", args{"space_id": "space-1", "name": "x", "status": "sleeping"}},
		{"create_project", args{"space_id": "space-1", "name": "x", "member_ids": []string{"eve"}}},
		{"update_project", args{"id": "project-1", "due_date": "2026-02-30"}},
		{"update_project", args{"id": "project-1", "space_id": "space-9"}},
		{"create_project_task", args{"project_id": "project-9", "title": "x"}},
		{"create_project_task", args{"project_id": "project-1", "title": "x", "due_date": "tomorrow"}},
		{"create_project_task", args{"project_id": "project-1", "title": "x", "assignee_id": "adam"}}, // Adam is no member
		{"update_project_task", args{"id": "task-1", "assignee_id": "eve"}},
		{"update_project_task", args{"id": "task-1", "priority": "HIGH"}},
		{"list_project_tasks", args{"due_before": "2026-13-01"}},
		{"create_personal_task", args{"title": "x", "estimate_seconds": -1}},
		{"start_project_task_timer", args{"task_id": "personal-1"}},
		{"start_personal_task_timer", args{"task_id": "task-1"}},
		{"stop_project_task_timer", args{"task_id": "task-1"}},
		{"stop_personal_task_timer", args{"task_id": "task-1"}},
		{"add_manual_time_entry", args{"task_id": "task-1", "date": "2026-03-07", "duration_seconds": 60}}, // tomorrow
		{"add_manual_time_entry", args{"task_id": "task-1", "date": "", "duration_seconds": 60}},
		{"add_manual_time_entry", args{"task_id": "task-1", "date": "2026-03-06", "duration_seconds": 0}},
		{"add_time_range_entry", args{"task_id": "task-1", "started_at": "yesterday", "ended_at": "2026-03-06T08:00:00Z"}},
		{"add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-06T08:00:00Z", "ended_at": "2026-03-06T08:00:00Z"}},
		{"add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-06T08:00:00Z", "ended_at": "2026-03-06T07:00:00Z"}},
		{"add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-06T13:00:00Z", "ended_at": "2026-03-06T14:30:00Z"}}, // not over
		{"add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-04T08:00:00Z", "ended_at": "2026-03-05T09:00:00Z"}}, // 25 hours
		{"list_task_timers", args{"task_id": "task-99"}},
		{"list_task_timers", args{"task_id": "task-1", "user_id": "eve"}},
		{"get_timesheet_report", args{"from": "2026-03-06", "to": "2026-03-05"}},
		{"get_timesheet_report", args{"to": "2026-02-29"}},
		{"get_timesheet_report", args{"from": "2026-02-29"}},
		{"get_project_timesheet", args{"project_id": "project-99"}},
		{"get_project_timesheet_summary", args{"project_id": "project-1", "user_id": "eve"}},
		{"list_subtask_checklists", args{"subtask_id": "subtask-99"}},
		{"update_timer", args{"id": "timer-99", "note": "x"}},
		{"delete_timer", args{"id": "timer-99"}},
		{"mark_mention_read", args{"id": "mention-99"}},
	} {
		d.refused(c.tool, c.args)
	}
	if d := cmp.Diff(before, s.dump()); d != "" {
		t.Errorf("wrong arguments changed the workspace:\n%s", d)
	}
}

func TestUpdateChangesWhatIsGiven(t *testing.T) {
	s := open(t)
	d := s.as("mia")
	was := do[projectTask](d, "get_project_task", args{"id": "task-1"})
	s.advance(time.Hour)
	if same := do[projectTask](d, "update_project_task", args{"id": "task-1", "title": was.Title, "assignee_id": "mia"}); same != was {
		t.Errorf("an update that changes nothing made %+v of %+v", same, was)
	}
	want := was
	want.Status, want.DueDate, want.AssigneeID, want.UpdatedAt = "done", "", "", friday.Add(time.Hour).UTC().Truncate(time.Second)
	if got := do[projectTask](d, "update_project_task", args{"id": "task-1", "status": "done", "due_date": "", "assignee_id": ""}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestTimer(t *testing.T) {
	s := open(t)
	d := s.as("mia")
	started := do[timer](d, "start_project_task_timer", args{"task_id": "task-1", "note": "Credits"})
	if !started.Running || started.Duration != 0 || !started.StartedAt.Equal(friday.Truncate(time.Second)) || started.ProjectID != "project-1" {
		t.Errorf("started: %+v", started)
	}
	d.refused("start_project_task_timer", args{"task_id": "task-1"})
	d.refused("start_personal_task_timer", args{"task_id": "personal-5"})
	s.advance(90 * time.Minute)
	d.refused("stop_project_task_timer", args{"task_id": "task-4"})
	if l := do[list[timer]](d, "list_active_timers", nil); l.Total != 1 || l.Items[0].Duration != 5400 {
		t.Errorf("running: %v", l)
	}
	sheet1 := do[sheet](d, "get_project_timesheet", args{"project_id": "project-1", "from": "2026-03-06"})
	if sheet1.Total != 5400 || sheet1.Entries.Total != 1 {
		t.Errorf("timesheet of a running timer: %v", sheet1)
	}
	d.refused("update_timer", args{"id": started.ID, "ended_at": "2026-03-06T15:00:00Z"})
	d.refused("update_timer", args{"id": started.ID, "started_at": "2026-03-06T18:00:00Z"})
	d.refused("add_time_range_entry", args{"task_id": "task-4", "started_at": "2026-03-06T14:30:00Z", "ended_at": "2026-03-06T15:00:00Z"}) // while it runs
	stopped := do[timer](d, "stop_project_task_timer", args{"task_id": "task-1"})
	if stopped.Running || stopped.Duration != 5400 || stopped.EndedAt.Sub(stopped.StartedAt) != 90*time.Minute {
		t.Errorf("stopped: %+v", stopped)
	}
	d.refused("stop_project_task_timer", args{"task_id": "task-1"})
	s.advance(time.Hour)
	if l := do[list[timer]](d, "list_task_timers", args{"task_id": "task-1", "limit": 1}); l.Items[0].Duration != 5400 {
		t.Errorf("a stopped timer went on: %v", l)
	}

	entry := do[timer](d, "add_time_range_entry", args{"task_id": "personal-5", "started_at": "2026-03-06T12:00:00Z", "ended_at": "2026-03-06T13:00:00Z"})
	d.refused("update_timer", args{"id": entry.ID, "ended_at": "2026-03-06T14:30:00Z"}) // overlaps the timer
	d.refused("update_timer", args{"id": entry.ID, "duration_seconds": 60})
	if got := do[timer](d, "update_timer", args{"id": entry.ID, "started_at": "2026-03-06T12:30:00Z"}); got.Duration != 1800 || got.ProjectID != "" {
		t.Errorf("updated: %+v", got)
	}
	manual := do[timer](d, "add_manual_time_entry", args{"task_id": "task-1", "date": "2026-03-05", "duration_seconds": 600})
	d.refused("update_timer", args{"id": manual.ID, "started_at": "2026-03-05T12:30:00Z"})
	d.refused("update_timer", args{"id": manual.ID, "date": "2026-03-05", "duration_seconds": 86400}) // beside what is there
	if got := do[timer](d, "update_timer", args{"id": manual.ID, "date": "2026-03-01", "duration_seconds": 86400}); got.Duration != 86400 || got.Date != "2026-03-01" {
		t.Errorf("updated: %+v", got)
	}
	// Another user's time is no obstacle.
	do[timer](s.as("adam"), "add_time_range_entry", args{"task_id": "task-1", "started_at": "2026-03-06T12:30:00Z", "ended_at": "2026-03-06T13:00:00Z"})

	// Deleting the task takes its time with it.
	do[deleted](d, "delete_project_task", args{"id": "task-1"})
	d.refused("update_timer", args{"id": stopped.ID, "note": "x"})
}

func TestTimesheetsAddUp(t *testing.T) {
	s := open(t)
	d := s.as("adam")
	sum := func(shares []share) (total int) {
		for _, h := range shares {
			total += h.Total
		}
		return total
	}
	do[timer](d, "add_manual_time_entry", args{"task_id": "task-11", "date": "2026-03-06", "duration_seconds": 60}) // after task-9
	report := do[sheet](d, "get_timesheet_report", args{"limit": 100})
	var entries int
	for _, e := range report.Entries.Items {
		entries += e.Duration
	}
	if report.Total == 0 || sum(report.ByUser) != report.Total || sum(report.ByProject) != report.Total || entries != report.Total {
		t.Errorf("report: total %d, by user %d, by project %d, entries %d", report.Total, sum(report.ByUser), sum(report.ByProject), entries)
	}
	for _, p := range report.ByProject {
		one := do[summary](d, "get_project_timesheet_summary", args{"project_id": p.Key})
		if one.Total != p.Total || sum(one.ByUser) != p.Total || sum(one.ByTask) != p.Total || sum(one.ByDay) != p.Total {
			t.Errorf("%s: %+v, want %d", p.Key, one, p.Total)
		}
		if !slices.IsSortedFunc(one.ByDay, func(a, b share) int { return strings.Compare(a.Key, b.Key) }) {
			t.Errorf("%s: days out of order: %v", p.Key, one.ByDay)
		}
		if !slices.IsSortedFunc(one.ByTask, func(a, b share) int { return ordinal(a.Key) - ordinal(b.Key) }) {
			t.Errorf("%s: tasks out of order: %v", p.Key, one.ByTask)
		}
		if do[sheet](d, "get_project_timesheet", args{"project_id": p.Key}).Total != p.Total {
			t.Errorf("%s: its timesheet and its summary differ", p.Key)
		}
	}

	// Time on personal tasks is in its user's report alone.
	mia := s.as("mia")
	do[timer](mia, "add_manual_time_entry", args{"task_id": "personal-5", "date": "2026-03-06", "duration_seconds": 600})
	before := report
	if after := do[sheet](d, "get_timesheet_report", args{"limit": 100}); !reflect.DeepEqual(after.ByUser, before.ByUser) {
		t.Errorf("personal time shows: %v, before %v", after.ByUser, before.ByUser)
	}
	own := do[sheet](mia, "get_timesheet_report", args{"from": "2026-03-06"})
	if want := []share{{"personal", 600}}; !slices.Equal(own.ByProject, want) {
		t.Errorf("own report: %v", own.ByProject)
	}
}

func TestDeletingAProjectLeavesNothing(t *testing.T) {
	s := open(t)
	do[deleted](s.as("adam"), "delete_project", args{"id": "project-1"})
	gone := func(id string) bool { _, ok := s.tasks.get(id); return !ok && strings.HasPrefix(id, "task-") }
	for _, r := range s.subtasks.rows {
		if gone(r.TaskID) {
			t.Errorf("left: %v", r)
		}
	}
	for _, r := range s.comments.rows {
		if gone(r.TaskID) {
			t.Errorf("left: %v", r)
		}
	}
	for _, r := range s.timers.rows {
		if gone(r.TaskID) || r.ProjectID == "project-1" {
			t.Errorf("left: %v", r)
		}
	}
	for _, r := range append(slices.Clone(s.notifications.rows), s.mentions.rows...) {
		if gone(r.TaskID) {
			t.Errorf("left: %v", r)
		}
	}
	for _, r := range s.checklists.rows {
		if _, ok := s.subtasks.get(r.SubtaskID); !ok && r.SubtaskID != "" || gone(r.TaskID) {
			t.Errorf("left: %v", r)
		}
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	s := open(t)
	const each = 20
	var wg sync.WaitGroup
	var running atomic.Int32
	for _, user := range []string{"olivia", "adam", "mia", "mia"} {
		d := s.as(user)
		wg.Go(func() {
			for i := range each {
				d.try("create_project_task", args{"project_id": "project-1", "title": fmt.Sprint("Task ", i)})
				d.try("get_timesheet_report", nil)
				if user == "mia" && !d.try("start_project_task_timer", args{"task_id": "task-1"}).IsError {
					if running.Add(1) > 1 {
						t.Error("two timers of one user run")
					}
					running.Add(-1)
					d.try("stop_project_task_timer", args{"task_id": "task-1"})
				}
				d.try("list_project_tasks", nil)
			}
		})
	}
	wg.Wait()
	unique := map[string]bool{}
	for _, r := range s.tasks.rows {
		unique[r.ID] = true
	}
	if len(s.tasks.rows) != 32+4*each || len(unique) != len(s.tasks.rows) {
		t.Errorf("%d tasks, %d identifiers", len(s.tasks.rows), len(unique))
	}
}

func TestResourcesAndPrompts(t *testing.T) {
	d := open(t).as("mia")
	read := func(uri string) string {
		res, err := d.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri})
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		return res.Contents[0].Text
	}
	var o overview
	if err := json.Unmarshal([]byte(read(uriOverview)), &o); err != nil || o.You != Users()[2] || len(o.Spaces) != 2 {
		t.Errorf("overview: %+v, %v", o, err)
	}
	var p projectView
	if err := json.Unmarshal([]byte(read(uriProject+"project-1")), &p); err != nil || p.ID != "project-1" || len(p.Tasks) != 6 {
		t.Errorf("project: %+v, %v", p, err)
	}
	if read(uriRules) != rules {
		t.Error("the rules are not served")
	}
	for _, uri := range []string{uriProject + "project-6", uriProject + "project-99", "astravue://else"} {
		if res, err := d.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri}); err == nil {
			t.Errorf("%s: %v", uri, res.Contents)
		}
	}
	for r, err := range d.Resources(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		read(r.URI)
	}
	for p, err := range d.Prompts(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		res, err := d.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: p.Name})
		if err != nil || !strings.Contains(res.Messages[0].Content.(*mcp.TextContent).Text, "mia") && p.Name == "timesheet_summary" {
			t.Errorf("%s: %+v, %v", p.Name, res, err)
		}
	}
	if _, err := d.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "timesheet_summary", Arguments: map[string]string{"from": "soon"}}); err == nil {
		t.Error("a prompt took a date that is none")
	}
	if !strings.Contains(d.InitializeResult().Instructions, uriOverview) {
		t.Error("the instructions do not name the overview")
	}
}

// TestOverHTTP serves revisions with a handshake and a session, and one without them.
func TestOverHTTP(t *testing.T) {
	for version, stateless := range map[string]bool{"2025-06-18": false, "2025-11-25": false, "2026-07-28": true} {
		t.Run(version, func(t *testing.T) {
			w := New(nil)
			server := w.MCPServer(func(_ context.Context, req mcp.Request) (User, bool) {
				i := slices.IndexFunc(Users(), func(u User) bool { return u.ID == req.GetExtra().Header.Get("User") })
				return Users()[max(i, 0)], i >= 0
			})
			h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: stateless}))
			t.Cleanup(h.Close)
			for _, user := range []string{"mia", "olivia"} { // one server, two users
				d := connect(t, &mcp.StreamableClientTransport{Endpoint: h.URL, HTTPClient: &http.Client{Transport: as(user)}}, version)
				if got := d.InitializeResult().ProtocolVersion; got != version {
					t.Errorf("speaks %s", got)
				}
				task := do[projectTask](d, "create_project_task", args{"project_id": "project-1", "title": "Over HTTP"})
				if task.CreatedBy != user {
					t.Errorf("%s's task is by %s", user, task.CreatedBy)
				}
				d.refused("get_project", args{"id": "project-99"})
			}
		})
	}
}

// as is a transport that names the user in a header.
type as string

func (u as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User", string(u))
	return http.DefaultTransport.RoundTrip(r)
}

func TestAPI(t *testing.T) {
	s := open(t)
	h := httptest.NewServer(s.API(func(r *http.Request) (User, bool) {
		i := slices.IndexFunc(Users(), func(u User) bool { return u.ID == r.Header.Get("User") })
		return Users()[max(i, 0)], i >= 0
	}))
	t.Cleanup(h.Close)
	for _, c := range []struct {
		user, method, path string
		status             int
		want               []string
	}{
		{"mia", "GET", "/api/v1/projects", 200, []string{"project-1", "project-2", "project-4", "project-5"}},
		{"mia", "GET", "/api/v1/projects?limit=2", 200, []string{"project-1", "project-2"}},
		{"mia", "GET", "/api/v1/projects?limit=2&cursor=cHJvamVjdC0y", 200, []string{"project-4", "project-5"}},
		{"mia", "GET", "/api/v1/projects/project-1", 200, []string{"project-1"}},
		{"mia", "GET", "/api/v1/projects/project-6", 404, nil},
		{"adam", "GET", "/api/v1/projects/project-6", 200, []string{"project-6"}},
		{"mia", "GET", "/api/v1/projects?limit=0", 400, nil},
		{"mia", "GET", "/api/v1/projects?limit=x", 400, nil},
		{"mia", "GET", "/api/v1/projects?cursor=x", 400, nil},
		{"eve", "GET", "/api/v1/projects", 401, nil},
		{"mia", "POST", "/api/v1/projects", 405, nil},
		{"mia", "GET", "/api/v1/tasks", 404, nil},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), c.method, h.URL+c.path, nil)
		res, err := (&http.Client{Transport: as(c.user)}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		var one struct {
			ident
			Items []ident
		}
		json.Unmarshal(b, &one)
		var got []string
		for _, i := range append(one.Items, one.ident) {
			if i.ID != "" {
				got = append(got, i.ID)
			}
		}
		if res.StatusCode != c.status || !slices.Equal(got, c.want) {
			t.Errorf("%s %s %s: %d %s", c.user, c.method, c.path, res.StatusCode, b)
		}
	}
}
