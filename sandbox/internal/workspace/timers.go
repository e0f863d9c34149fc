package workspace

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A timer is the time of one user on one task. It was measured, and may be running
// still, or entered by hand: as a range, or as a duration on a day.
type timer struct {
	ident
	UserID    string    `json:"user_id"`
	TaskID    string    `json:"task_id"`
	ProjectID string    `json:"project_id,omitempty" jsonschema:"absent for a personal task"`
	Source    string    `json:"source" jsonschema:"timer, range or manual"`
	Date      day       `json:"date" jsonschema:"the day (UTC) to which the whole time counts: that of its start"`
	StartedAt time.Time `json:"started_at,omitzero" jsonschema:"absent for a manual entry"`
	EndedAt   time.Time `json:"ended_at,omitzero" jsonschema:"absent while it runs, and for a manual entry"`
	Running   bool      `json:"running"`
	Duration  int       `json:"duration_seconds" jsonschema:"so far, while it runs"`
	Note      prose     `json:"note,omitempty"`
}

func (t timer) String() string {
	state := ""
	if t.Running {
		state = "running"
	}
	return line(t.ID, t.Date, t.UserID, t.TaskID, span(t.Duration), state, t.Note)
}

func span(seconds int) string { return (time.Duration(seconds) * time.Second).String() }

// at returns t with its date and duration computed for the time now.
func (t timer) at(now time.Time) timer {
	end := t.EndedAt
	if t.Running {
		end = now
	}
	if !t.StartedAt.IsZero() {
		t.Date = day(t.StartedAt.Format(layout))
		t.Duration = max(0, int(end.Sub(t.StartedAt).Seconds()))
	}
	return t
}

// save stores t. It returns an error for time in the future, for an end that is not
// after the start, for an overlap with the user's other time, and for an entry by
// hand that brings a day over 24 hours.
func (c *call) save(t timer) (timer, error) {
	t = t.at(c.now)
	if err := t.Date.check("date"); err != nil {
		return t, err
	}
	if t.Date == "" {
		return t, errors.New("a time entry needs a date")
	}
	if t.Date > day(c.now.Format(layout)) || t.StartedAt.After(c.now) || t.EndedAt.After(c.now) {
		return t, fmt.Errorf("time cannot be entered for the future: it is %s", c.now.Format(time.RFC3339))
	}
	if !t.Running && (t.EndedAt.Before(t.StartedAt) || t.Source == "range" && t.EndedAt.Equal(t.StartedAt)) {
		return t, fmt.Errorf("the end %s is not after the start %s", t.EndedAt.Format(time.RFC3339), t.StartedAt.Format(time.RFC3339))
	}
	total := t.Duration
	for _, o := range c.timers.rows {
		if o.UserID != t.UserID || o.ID == t.ID {
			continue
		}
		if o.Date == t.Date {
			total += o.Duration
		}
		// A manual entry overlaps nothing: it starts and ends at the zero time.
		if o.StartedAt.Before(t.end(c.now)) && t.StartedAt.Before(o.end(c.now)) {
			return t, fmt.Errorf("the time overlaps %s, which is from %s to %s", o.ID,
				o.StartedAt.Format(time.RFC3339), o.end(c.now).Format(time.RFC3339))
		}
	}
	if t.Source != "timer" && total > 24*60*60 {
		return t, fmt.Errorf("%s would have more than 24 hours of time on %s", t.UserID, t.Date)
	}
	if t.ID == "" {
		t.ident = c.timers.next()
	}
	return c.timers.put(t), nil
}

func (t timer) end(now time.Time) time.Time {
	if t.Running {
		return now
	}
	return t.EndedAt
}

func (i instant) parse(member string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, string(i))
	if err != nil {
		return t, fmt.Errorf("%s %q is not a time such as 2026-03-02T09:30:00Z", member, i)
	}
	return t.UTC().Truncate(time.Second), nil
}

// on returns a new timer of the caller's for a task of either family. It saves nothing.
func (c *call) on(taskID, source string, note prose) (timer, error) {
	t := timer{UserID: c.user.ID, TaskID: taskID, Source: source, Note: note}
	projectID, err := c.parent(taskID)
	t.ProjectID = projectID
	return t, err
}

// parent returns the project of a task that the caller sees, "" for a personal task.
func (c *call) parent(taskID string) (projectID string, err error) {
	if t, ok := c.personal.get(taskID); ok && c.seesPersonal(t) {
		return "", nil
	}
	t, err := find(&c.tasks, "task", taskID, c.seesTask)
	return t.ProjectID, err
}

// A sheet is a report of the time in a period, with its entries.
type sheet struct {
	From      day         `json:"from"`
	To        day         `json:"to"`
	Total     int         `json:"total_seconds"`
	ByUser    []share     `json:"by_user"`
	ByProject []share     `json:"by_project"`
	Entries   list[timer] `json:"entries"`
}

func (s sheet) String() string {
	return fmt.Sprintf("%s to %s: %s\nby user: %s\nby project: %s\nentries: %s",
		s.From, s.To, span(s.Total), join(s.ByUser), join(s.ByProject), s.Entries)
}

// A summary is a report of a project's time in a period, without its entries.
type summary struct {
	ProjectID string  `json:"project_id"`
	From      day     `json:"from"`
	To        day     `json:"to"`
	Total     int     `json:"total_seconds"`
	Estimate  int     `json:"estimate_seconds" jsonschema:"sum over all tasks of the project"`
	ByUser    []share `json:"by_user"`
	ByTask    []share `json:"by_task"`
	ByDay     []share `json:"by_day"`
}

func (s summary) String() string {
	return fmt.Sprintf("%s, %s to %s: %s of %s estimated\nby user: %s\nby task: %s\nby day: %s",
		s.ProjectID, s.From, s.To, span(s.Total), span(s.Estimate), join(s.ByUser), join(s.ByTask), join(s.ByDay))
}

// A share is the total time of one user, project, task or day in a report.
type share struct {
	Key   string `json:"key" jsonschema:"identifier of a user, project or task, personal for personal tasks, or a date"`
	Total int    `json:"total_seconds"`
}

func join(shares []share) string {
	var s []string
	for _, h := range shares {
		s = append(s, h.Key+" "+span(h.Total))
	}
	return strings.Join(s, ", ")
}

// split adds up time by key. The shares are sorted by key.
func split(timers []timer, key func(timer) string) (shares []share, total int) {
	shares = []share{}
	for _, t := range timers {
		k := key(t)
		i, found := slices.BinarySearchFunc(shares, k, func(h share, k string) int {
			return cmp.Or(len(h.Key)-len(k), strings.Compare(h.Key, k)) // task-9 before task-10
		})
		if !found {
			shares = slices.Insert(shares, i, share{Key: k})
		}
		shares[i].Total += t.Duration
		total += t.Duration
	}
	return shares, total
}

// A period holds the arguments that all reports take.
type period struct {
	From   day    `json:"from,omitempty" jsonschema:"first day, YYYY-MM-DD; 13 days before the last if it is not given"`
	To     day    `json:"to,omitempty" jsonschema:"last day, YYYY-MM-DD; today if it is not given"`
	UserID string `json:"user_id,omitempty" jsonschema:"only time of this user, me for your own; all that you may see if it is not given"`
}

// timers returns the timers in the period that the caller may see, and the period
// with its defaults filled in. An empty projectID stands for all projects.
func (p period) timers(c *call, projectID string) (period, []timer, error) {
	if p.To == "" {
		p.To = day(c.now.Format(layout))
	}
	last, err := time.Parse(layout, string(p.To))
	if err != nil {
		return p, nil, p.To.check("to")
	}
	if p.From == "" {
		p.From = day(last.AddDate(0, 0, -13).Format(layout))
	}
	if err := p.From.check("from"); err != nil {
		return p, nil, err
	}
	if p.From > p.To {
		return p, nil, fmt.Errorf("the period ends on %s, before it begins on %s", p.To, p.From)
	}
	if p.UserID != "" {
		if p.UserID, err = c.whose(p.UserID); err != nil {
			return p, nil, err
		}
	}
	if projectID != "" {
		if _, err := find(&c.projects, "project", projectID, c.seesProject); err != nil {
			return p, nil, err
		}
	}
	var found []timer
	for _, t := range c.timers.rows {
		if c.seesTimer(t) && t.Date >= p.From && t.Date <= p.To &&
			(p.UserID == "" || t.UserID == p.UserID) && (projectID == "" || t.ProjectID == projectID) {
			found = append(found, t)
		}
	}
	return p, found, nil
}

func (p period) sheet(c *call, projectID string, g paging) (sheet, error) {
	p, timers, err := p.timers(c, projectID)
	if err != nil {
		return sheet{}, err
	}
	s := sheet{From: p.From, To: p.To}
	s.ByUser, s.Total = split(timers, func(t timer) string { return t.UserID })
	s.ByProject, _ = split(timers, func(t timer) string { return cmp.Or(t.ProjectID, "personal") })
	s.Entries, err = paginate(&table[timer]{prefix: "timer", rows: timers}, g, true, func(timer) bool { return true })
	return s, err
}

// The arguments of the timer tools.
type (
	taskRef struct {
		TaskID string `json:"task_id"`
	}
	startTimer struct {
		taskRef
		Note prose `json:"note,omitempty" jsonschema:"what the time is spent on"`
	}
	manualEntry struct {
		startTimer
		Date     day     `json:"date" jsonschema:"YYYY-MM-DD, not in the future"`
		Duration seconds `json:"duration_seconds"`
	}
	rangeEntry struct {
		startTimer
		StartedAt instant `json:"started_at"`
		EndedAt   instant `json:"ended_at"`
	}
	timerUpdate struct {
		ident
		Note      *prose   `json:"note,omitempty"`
		StartedAt *instant `json:"started_at,omitempty" jsonschema:"not for a manual entry"`
		EndedAt   *instant `json:"ended_at,omitempty" jsonschema:"neither for a manual entry nor while the timer runs"`
		Date      *day     `json:"date,omitempty" jsonschema:"only for a manual entry"`
		Duration  *seconds `json:"duration_seconds,omitempty" jsonschema:"only for a manual entry"`
	}
	taskTimers struct {
		paging
		taskRef
		UserID string `json:"user_id,omitempty" jsonschema:"whose timers; your own if it is not given"`
	}
	activeTimers struct {
		paging
		UserID string `json:"user_id,omitempty" jsonschema:"whose timers; your own if it is not given"`
	}
	report struct {
		paging
		period
	}
	projectReport struct {
		ProjectID string `json:"project_id"`
		report
	}
	projectPeriod struct {
		ProjectID string `json:"project_id"`
		period
	}
)

func (in timerUpdate) apply(t timer) (timer, error) {
	manual := t.Source == "manual"
	switch {
	case manual && (in.StartedAt != nil || in.EndedAt != nil):
		return t, fmt.Errorf("%s is a manual entry and has a date and a duration, no start and no end", t.ID)
	case !manual && (in.Date != nil || in.Duration != nil):
		return t, fmt.Errorf("%s has a start and an end, and its date and duration follow from them", t.ID)
	case t.Running && in.EndedAt != nil:
		return t, fmt.Errorf("%s is running and has to be stopped first", t.ID)
	}
	var err error
	set(&t.Note, in.Note)
	set(&t.Date, in.Date)
	if in.Duration != nil {
		t.Duration = int(*in.Duration)
	}
	if in.StartedAt != nil {
		if t.StartedAt, err = in.StartedAt.parse("started_at"); err != nil {
			return t, err
		}
	}
	if in.EndedAt != nil {
		t.EndedAt, err = in.EndedAt.parse("ended_at")
	}
	return t, err
}

// addTimers adds timers and timesheets.
func (s server) addTimers() {
	for _, f := range []struct{ noun, article, prefix string }{
		{"project_task", "a project task", s.w.tasks.prefix}, {"personal_task", "a personal task", s.w.personal.prefix},
	} {
		kind := func(in taskRef) error {
			if prefix, _, _ := strings.Cut(in.TaskID, "-"); prefix != f.prefix {
				return fmt.Errorf("%q is not the identifier of %s", in.TaskID, f.article)
			}
			return nil
		}
		add(s, adds, "start_"+f.noun+"_timer", "Starts your timer on "+f.article+". One timer runs per user: stop the running one first.",
			func(c *call, in startTimer) (timer, error) {
				if err := kind(in.taskRef); err != nil {
					return timer{}, err
				}
				t, err := c.on(in.TaskID, "timer", in.Note)
				if err != nil {
					return t, err
				}
				if i := c.running(c.user.ID); i >= 0 {
					return t, fmt.Errorf("%s is already running on %s and has to be stopped first", c.timers.rows[i].ID, c.timers.rows[i].TaskID)
				}
				t.StartedAt, t.Running = c.now, true
				return c.save(t)
			})
		add(s, marks, "stop_"+f.noun+"_timer", "Stops your running timer on "+f.article+".",
			func(c *call, in taskRef) (timer, error) {
				if err := kind(in); err != nil {
					return timer{}, err
				}
				i := c.running(c.user.ID)
				if i < 0 || c.timers.rows[i].TaskID != in.TaskID {
					return timer{}, fmt.Errorf("no timer of yours is running on %q", in.TaskID)
				}
				t := c.timers.rows[i]
				t.EndedAt, t.Running = c.now, false
				return c.timers.put(t.at(c.now)), nil
			})
	}
	add(s, adds, "add_manual_time_entry", "Enters a length of time that you spent on a task on one day.",
		func(c *call, in manualEntry) (timer, error) {
			t, err := c.on(in.TaskID, "manual", in.Note)
			if err != nil {
				return t, err
			}
			t.Date, t.Duration = in.Date, int(in.Duration)
			return c.save(t)
		})
	add(s, adds, "add_time_range_entry", "Enters the time from a start to an end that you spent on a task.",
		func(c *call, in rangeEntry) (timer, error) {
			t, err := c.on(in.TaskID, "range", in.Note)
			if err != nil {
				return t, err
			}
			if t, err = (timerUpdate{StartedAt: &in.StartedAt, EndedAt: &in.EndedAt}).apply(t); err != nil {
				return t, err
			}
			return c.save(t)
		})
	entry := func(c *call, verb, id string) (timer, error) {
		t, err := find(&c.timers, "timer", id, c.seesTimer)
		if err == nil {
			err = c.may(verb, "timer", t.UserID == c.user.ID)
		}
		return t, err
	}
	add(s, edits, "update_timer", "Changes the given members of a timer or time entry and leaves the others.",
		func(c *call, in timerUpdate) (timer, error) {
			t, err := entry(c, update, in.ID)
			if err == nil {
				t, err = in.apply(t)
			}
			if err != nil {
				return t, err
			}
			return c.save(t)
		})
	addDelete(s, "delete_timer", "Deletes a timer, running or not, or a time entry.", &s.w.timers, func(c *call, id string) error {
		_, err := entry(c, remove, id)
		return err
	})
	addList(s, "list_task_timers", "Lists a user's timers and time entries on one task of either family, newest first.", &s.w.timers, true,
		func(c *call, in taskTimers) (func(timer) bool, error) {
			if _, err := c.parent(in.TaskID); err != nil {
				return nil, err
			}
			user, err := c.whose(cmp.Or(in.UserID, "me"))
			return func(t timer) bool { return t.UserID == user && t.TaskID == in.TaskID && c.seesTimer(t) }, err
		})
	addList(s, "list_active_timers", "Lists the timers of a user that are running.", &s.w.timers, true,
		func(c *call, in activeTimers) (func(timer) bool, error) {
			user, err := c.whose(cmp.Or(in.UserID, "me"))
			return func(t timer) bool { return t.Running && t.UserID == user && c.seesTimer(t) }, err
		})
	add(s, reads, "get_timesheet_report", "Reports the time of a period over all projects: totals by user and by project, and the entries, newest first. Members see their own time.",
		func(c *call, in report) (sheet, error) { return in.sheet(c, "", in.paging) })
	add(s, reads, "get_project_timesheet", "Reports the time of a period on one project: totals by user, and the entries, newest first. Members see their own time.",
		func(c *call, in projectReport) (sheet, error) { return in.sheet(c, in.ProjectID, in.paging) })
	add(s, reads, "get_project_timesheet_summary", "Sums up the time of a period on one project by user, task and day, beside the estimate. Members see their own time.",
		func(c *call, in projectPeriod) (summary, error) {
			p, timers, err := in.timers(c, in.ProjectID)
			s := summary{ProjectID: in.ProjectID, From: p.From, To: p.To}
			s.ByUser, s.Total = split(timers, func(t timer) string { return t.UserID })
			s.ByTask, _ = split(timers, func(t timer) string { return t.TaskID })
			s.ByDay, _ = split(timers, func(t timer) string { return string(t.Date) })
			for _, t := range c.tasks.rows {
				if t.ProjectID == in.ProjectID {
					s.Estimate += int(t.Estimate)
				}
			}
			return s, err
		})
}

// running returns the index of the user's running timer, or -1.
func (c *call) running(user string) int {
	return slices.IndexFunc(c.timers.rows, func(t timer) bool { return t.Running && t.UserID == user })
}
