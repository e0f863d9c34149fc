package workspace

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Role says what a user may do in the workspace. [Workspace.MCPServer] serves the
// rules as a resource.
type Role string

// The roles, the most powerful first.
const (
	Owner  Role = "owner"
	Admin  Role = "admin"
	Member Role = "member"
)

// A User is an account of the workspace.
type User struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
	Role  Role   `json:"role"`
}

// Users returns the accounts that every workspace has, the owner first.
func Users() []User {
	return []User{
		{"olivia", "Olivia Marsh", "olivia.marsh@brightwater.example", Owner},
		{"adam", "Adam Okafor", "adam.okafor@brightwater.example", Admin},
		{"mia", "Mia Lindqvist", "mia.lindqvist@brightwater.example", Member},
		{"noah", "Noah Pereira", "noah.pereira@brightwater.example", Member},
	}
}

func known(user string) bool {
	return slices.ContainsFunc(Users(), func(u User) bool { return u.ID == user })
}

// A Workspace is safe for concurrent use. Make one with [New].
type Workspace struct {
	now func() time.Time

	mu            sync.Mutex // held during each call: no call sees the half of another
	spaces        table[space]
	projects      table[project]
	tasks         table[projectTask]
	personal      table[personalTask]
	subtasks      table[subtask]
	checklists    table[checklist]
	comments      table[comment]
	timers        table[timer]
	notifications table[notice]
	mentions      table[notice]
}

// New returns a workspace with two weeks of history before now(). Later times come
// from now as well; nil means [time.Now]. Calls of now never overlap.
func New(now func() time.Time) *Workspace {
	if now == nil {
		now = time.Now
	}
	w := &Workspace{now: now}
	w.spaces.prefix, w.projects.prefix = "space", "project"
	w.tasks.prefix, w.personal.prefix = "task", "personal"
	w.subtasks.prefix, w.checklists.prefix, w.comments.prefix = "subtask", "checklist", "comment"
	w.timers.prefix, w.notifications.prefix, w.mentions.prefix = "timer", "notification", "mention"
	w.seed(w.time())
	return w
}

func (w *Workspace) time() time.Time { return w.now().UTC().Truncate(time.Second) }

// A call is one request of one user, made while the workspace is locked.
type call struct {
	*Workspace
	user User
	now  time.Time
}

// as runs f for the user u while no other call runs. It first brings the durations of
// running timers up to date.
func (w *Workspace) as(u User, f func(*call) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &call{w, u, w.time()}
	for i, t := range w.timers.rows {
		w.timers.rows[i] = t.at(c.now)
	}
	return f(c)
}

// ident is the first member of every row, and the argument of every tool about one row.
type ident struct {
	ID string `json:"id" jsonschema:"identifier, as the matching list tool returns it"`
}

func (i ident) id() string { return i.ID }

// ordinal returns the number in an identifier. Newer rows have higher numbers.
func ordinal(id string) int {
	n, _ := strconv.Atoi(id[strings.LastIndexByte(id, '-')+1:])
	return n
}

type row interface {
	id() string
	String() string // one line for people
}

// A table holds rows in the order of their creation. An identifier is never used twice.
type table[T row] struct {
	prefix string
	last   int
	rows   []T
}

func (t *table[T]) next() ident {
	t.last++
	return ident{t.prefix + "-" + strconv.Itoa(t.last)}
}

func (t *table[T]) index(id string) int {
	return slices.IndexFunc(t.rows, func(r T) bool { return r.id() == id })
}

func (t *table[T]) get(id string) (r T, ok bool) {
	if i := t.index(id); i >= 0 {
		return t.rows[i], true
	}
	return r, false
}

// put adds r, or replaces the row with its identifier.
func (t *table[T]) put(r T) T {
	if i := t.index(r.id()); i >= 0 {
		t.rows[i] = r
	} else {
		t.rows = append(t.rows, r)
	}
	return r
}

func (t *table[T]) drop(match func(T) bool) { t.rows = slices.DeleteFunc(t.rows, match) }

// A list is one page of rows.
type list[T row] struct {
	Items      []T    `json:"items"`
	Total      int    `json:"total" jsonschema:"number of rows on all pages"`
	NextCursor string `json:"next_cursor,omitempty" jsonschema:"cursor of the next page; absent on the last"`
}

func (l list[T]) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d", len(l.Items), l.Total)
	for _, r := range l.Items {
		b.WriteString("\n" + r.String())
	}
	if l.NextCursor != "" {
		b.WriteString("\nmore: cursor " + l.NextCursor)
	}
	return b.String()
}

// paging is the part of a list's arguments that chooses the page.
type paging struct {
	Limit  limit  `json:"limit,omitempty" jsonschema:"most rows to return"`
	Cursor string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
}

func (p paging) page() paging { return p }

// paginate returns the page of matching rows that p asks for. A cursor names the
// last row of a page: rows that are added or deleted between two requests make no
// page repeat or skip another row.
func paginate[T row](t *table[T], p paging, newestFirst bool, match func(T) bool) (list[T], error) {
	l := list[T]{Items: []T{}}
	after := 0
	if p.Cursor != "" {
		b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
		prefix, _, ok := strings.Cut(string(b), "-")
		after = ordinal(string(b))
		if err != nil || !ok || prefix != t.prefix || after < 1 {
			return l, fmt.Errorf("cursor %q is not one that this list returned", p.Cursor)
		}
	}
	if p.Limit <= 0 {
		p.Limit = defaultLimit
	}
	rows := slices.Clone(t.rows)
	if newestFirst {
		slices.Reverse(rows)
	}
	for _, r := range rows {
		if !match(r) {
			continue
		}
		l.Total++
		n := ordinal(r.id())
		switch {
		case after > 0 && (n == after || n < after != newestFirst): // the row is on an earlier page
		case len(l.Items) < int(p.Limit):
			l.Items = append(l.Items, r)
		case l.NextCursor == "":
			l.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(l.Items[len(l.Items)-1].id()))
		}
	}
	return l, nil
}

// API returns the Public API's routes GET /api/v1/projects (query parameters limit
// and cursor) and GET /api/v1/projects/{id}. It asks user which account makes a
// request. If user returns false the answer is 401 without a challenge.
func (w *Workspace) API(user func(*http.Request) (User, bool)) http.Handler {
	route := func(f func(*call, *http.Request) (any, int, error)) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			var answer any
			status, err := http.StatusUnauthorized, errNobody
			if u, ok := user(r); ok {
				err = w.as(u, func(c *call) (err error) { answer, status, err = f(c, r); return err })
			}
			if err != nil {
				answer = map[string]string{"error": err.Error()}
			}
			rw.Header().Set("Content-Type", "application/json")
			rw.Header().Set("Cache-Control", "no-store")
			rw.WriteHeader(status)
			json.NewEncoder(rw).Encode(answer) // rows always encode; a client that has left needs no error
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /api/v1/projects", route(func(c *call, r *http.Request) (any, int, error) {
		p := paging{Cursor: r.FormValue("cursor")}
		if s := r.FormValue("limit"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > maxLimit {
				return nil, http.StatusBadRequest, fmt.Errorf("limit %q is not a number from 1 to %d", s, maxLimit)
			}
			p.Limit = limit(n)
		}
		l, err := paginate(&c.projects, p, false, c.seesProject)
		if err != nil {
			return nil, http.StatusBadRequest, err
		}
		return l, http.StatusOK, nil
	}))
	mux.Handle("GET /api/v1/projects/{id}", route(func(c *call, r *http.Request) (any, int, error) {
		p, err := find(&c.projects, "project", r.PathValue("id"), c.seesProject)
		if err != nil {
			return nil, http.StatusNotFound, err
		}
		return p, http.StatusOK, nil
	}))
	return mux
}
