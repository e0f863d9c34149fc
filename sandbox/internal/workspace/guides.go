package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// overview is the resource astravue://workspace: the company, its people and the user.
type overview struct {
	Company string    `json:"company"`
	Time    time.Time `json:"time"`
	You     User      `json:"you"`
	People  []User    `json:"people"`
	Spaces  []space   `json:"spaces"`
}

// projectView is the resource of a project: the project and its tasks.
type projectView struct {
	project
	Tasks []projectTask `json:"tasks"`
}

func visible[T row](t *table[T], sees func(T) bool) []T {
	rows := []T{}
	for _, r := range t.rows {
		if sees(r) {
			rows = append(rows, r)
		}
	}
	return rows
}

const (
	uriOverview = "astravue://workspace"
	uriRules    = "astravue://rules"
	uriProject  = "astravue://projects/"
)

// addResources adds the overview, the rules, and each project.
func (s server) addResources() {
	// read returns a handler that serves f's result: a string as it is, another type
	// as JSON. An error of f is answered with "resource not found".
	read := func(mime string, f func(c *call, uri string) (any, error)) mcp.ResourceHandler {
		return func(ctx context.Context, req *mcp.ReadResourceRequest) (res *mcp.ReadResourceResult, err error) {
			uri := req.Params.URI
			err = s.as(ctx, req, func(c *call) error {
				v, err := f(c, uri)
				if err != nil {
					return mcp.ResourceNotFoundError(uri)
				}
				text, ok := v.(string)
				if !ok {
					b, err := json.MarshalIndent(v, "", "  ")
					if err != nil {
						return fmt.Errorf("encode %s: %w", uri, err)
					}
					text = string(b)
				}
				res = &mcp.ReadResourceResult{
					Contents:  []*mcp.ResourceContents{{URI: uri, MIMEType: mime, Text: text}},
					Cacheable: mcp.Cacheable{CacheScope: "private"}, // a shared cache would show it to other users
				}
				return nil
			})
			return res, err
		}
	}
	s.AddResource(&mcp.Resource{URI: uriOverview, Name: "workspace", Title: "Workspace overview", MIMEType: "application/json",
		Description: "Who you are, who else is here, and the spaces that you can see."},
		read("application/json", func(c *call, _ string) (any, error) {
			return overview{"Brightwater Studio", c.now, c.user, Users(), visible(&c.spaces, c.seesSpace)}, nil
		}))
	s.AddResource(&mcp.Resource{URI: uriRules, Name: "rules", Title: "Roles and rules", MIMEType: "text/markdown",
		Description: "What each role sees and may do."},
		read("text/markdown", func(*call, string) (any, error) { return rules, nil }))
	s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: uriProject + "{id}", Name: "project", Title: "Project", MIMEType: "application/json",
		Description: "A project with all its tasks."},
		read("application/json", func(c *call, uri string) (any, error) {
			p, err := find(&c.projects, "project", strings.TrimPrefix(uri, uriProject), c.seesProject)
			return projectView{p, visible(&c.tasks, func(t projectTask) bool { return t.ProjectID == p.ID })}, err
		}))
}

// addPrompts adds the prompts. Each text holds the data that it is about, so that a
// model needs no tool call to answer.
func (s server) addPrompts() {
	prompt := func(p *mcp.Prompt, f func(c *call, args map[string]string) (string, error)) {
		s.AddPrompt(p, func(ctx context.Context, req *mcp.GetPromptRequest) (res *mcp.GetPromptResult, err error) {
			err = s.as(ctx, req, func(c *call) error {
				text, err := f(c, req.Params.Arguments)
				res = &mcp.GetPromptResult{Description: p.Description, Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: text}}}}
				return err
			})
			return res, err
		})
	}
	prompt(&mcp.Prompt{Name: "daily_standup", Title: "Daily stand-up", Description: "Write my stand-up from my open tasks and the time since yesterday."},
		func(c *call, _ map[string]string) (string, error) {
			open := visible(&c.tasks, func(t projectTask) bool {
				return c.seesTask(t) && t.AssigneeID == c.user.ID && (t.Status == "in_progress" || t.Status == "in_review")
			})
			since := day(c.now.AddDate(0, 0, -1).Format(layout))
			_, timers, err := period{From: since, UserID: "me"}.timers(c, "")
			return fmt.Sprintf("Write my stand-up in three short paragraphs: what I did, what I do today, what is in my way.\n\n"+
				"I am %s, a %s at Brightwater Studio. It is %s.\n\nMy tasks under way:\n%s\nMy time since %s:\n%s",
				c.user.Name, c.user.Role, c.now.Format(time.RFC3339), bullets(open), since, bullets(timers)), err
		})
	prompt(&mcp.Prompt{Name: "timesheet_summary", Title: "Timesheet summary", Description: "Sum up the tracked time of a period for a client or a manager.",
		Arguments: []*mcp.PromptArgument{
			{Name: "project_id", Description: "only this project"},
			{Name: "from", Description: "first day, YYYY-MM-DD; 13 days before the last if it is not given"},
			{Name: "to", Description: "last day, YYYY-MM-DD; today if it is not given"},
		}},
		func(c *call, args map[string]string) (string, error) {
			t, err := period{From: day(args["from"]), To: day(args["to"])}.sheet(c, args["project_id"], paging{Limit: maxLimit})
			return "Sum up this timesheet in a table and two sentences: where the time went, and what stands out.\n\n" + t.String(), err
		})
}

func bullets[T row](rows []T) string {
	var b strings.Builder
	for _, r := range rows {
		b.WriteString("- " + r.String() + "\n")
	}
	if b.Len() == 0 {
		return "- none\n"
	}
	return b.String()
}
