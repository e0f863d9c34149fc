package workspace

import (
	"cmp"
	"strings"
	"time"
)

// A seedTask is a task that every workspace begins with.
type seedTask struct {
	title    name
	assignee string
	status   progress
	priority priority
	due      int // days from today, negative in the past, 0 for none
	hours    int // estimated work
	about    prose
	subtasks string // "x " before each that is done, "; " between two
	comments string // "user: text", "; " between two
}

type seedProject struct {
	name    name
	about   prose
	status  phase
	due     int
	members string
	tasks   []seedTask
}

var seedSpaces = []struct {
	name     name
	about    prose
	projects []seedProject
}{{
	"Client Work", "What clients of Brightwater pay for.", []seedProject{
		{"Harbor Museum website", "New site for the museum's reopening, in three languages, with timed tickets.", "active", 24, "mia noah olivia", []seedTask{
			{"Design the exhibition pages", "mia", "in_progress", "high", 3, 24, "Desktop and phone, all three languages; the German titles are the longest.",
				"x Wireframes; x Typography; Image credits; Handover to engineering", "noah: The credits need two lines on a phone, @mia.; mia: Done in version 4, have a look."},
			{"Build the ticket calendar", "noah", "in_progress", "urgent", 2, 32, "Slots of 30 minutes, at most 40 visitors each.",
				"x Read slots from the box office; Sold-out state; Keyboard use", "olivia: The museum asks for Sunday evenings as well. @noah, does the box office have them?; noah: It has. One line of configuration."},
			{"Migrate 1,200 object records", "noah", "todo", "medium", 9, 40, "From the museum's spreadsheet; 86 rows have no date.", "Map the columns; Dry run; Report of rejected rows", ""},
			{"Review accessibility", "mia", "todo", "high", 12, 16, "WCAG 2.2 AA, with the museum's own visitors.", "Keyboard; Screen reader; Contrast", ""},
			{"Agree on the launch date", "olivia", "done", "high", -4, 2, "", "", "olivia: Signed: the Tuesday after the opening."},
			{"Set up redirects of the old site", "", "todo", "low", 20, 6, "About 300 addresses; the shop stays where it is.", "", ""},
		}},
		{"Kestrel Coffee app", "Order ahead and loyalty card for 14 cafés.", "active", 38, "adam mia", []seedTask{
			{"Draw the loyalty card", "mia", "in_review", "medium", 1, 12, "Ten stamps, the eleventh coffee is free.", "x Three directions; x Client's choice; Animation", "adam: They chose the second one. Nice work, @mia!"},
			{"Test the order flow with baristas", "mia", "in_progress", "high", 5, 10, "Two mornings in the café at the station.", "x Script; Recruit five baristas; Sessions; Findings", ""},
			{"Choose the payment provider", "adam", "done", "urgent", -6, 8, "", "", "adam: Decided for the one that refunds on the same day."},
			{"Push notification when the order is ready", "adam", "todo", "medium", 14, 20, "", "Wording; Quiet hours", ""},
			{"Write the store listing", "mia", "todo", "low", 26, 5, "English and French.", "", ""},
		}},
		{"Northwind festival tickets", "Ticket shop and door scanner for three days in summer.", "on_hold", 60, "adam noah", []seedTask{
			{"Scanner that works without a network", "noah", "in_progress", "high", 18, 36, "The field has no signal; sync when a bar appears.", "x Storage; Conflict rule; Battery test", "adam: On hold until the contract is signed, @noah."},
			{"Estimate the load of the first hour", "noah", "done", "medium", -9, 6, "", "", "noah: 9,000 buyers, 400 a second at the peak."},
			{"Draft the refund rules", "adam", "in_review", "medium", 7, 4, "", "", ""},
			{"Print sample wristbands", "", "todo", "low", 30, 3, "", "", ""},
		}},
	},
}, {
	"Product", "What Brightwater makes for itself.", []seedProject{
		{"Tideline scheduling", "Our own planner for small crews.", "active", 45, "mia noah", []seedTask{
			{"Drag shifts between days", "noah", "in_progress", "high", 4, 20, "Also with the keyboard.", "x Mouse; x Touch; Keyboard; Undo", "mia: The shadow is too strong in the dark theme, @noah."},
			{"Onboarding in four steps", "mia", "in_progress", "medium", 8, 18, "", "x Sketch; Copy; Prototype", ""},
			{"Fix the week that starts on Sunday", "noah", "in_review", "urgent", 1, 4, "Reported by two crews in Canada.", "", "noah: It was the locale, not the calendar."},
			{"Export to calendar files", "noah", "todo", "medium", 16, 12, "", "Recurring shifts; Time zones", ""},
			{"Interview six crew leads", "mia", "done", "high", -3, 15, "", "", "mia: Notes are up. Four of six plan on paper first."},
			{"Pricing page", "", "todo", "low", 33, 8, "", "", ""},
		}},
		{"Design system 2.0", "One set of components for all that we build.", "active", 52, "adam mia", []seedTask{
			{"Name the color tokens", "mia", "in_review", "medium", 2, 8, "By role, not by hue.", "x Inventory; x Proposal; Vote", "adam: @mia, surface-raised appears twice."},
			{"Document the form controls", "mia", "todo", "medium", 11, 14, "", "Text field; Select; Date", ""},
			{"Remove the old button", "adam", "in_progress", "low", 6, 6, "Forty uses are left.", "", ""},
			{"Dark theme for charts", "mia", "todo", "low", 21, 10, "", "", ""},
		}},
	},
}, {
	"Operations", "The house itself: rooms, people, money.", []seedProject{
		{"Office move to Dock Street", "Out of the old mill by the end of the quarter.", "active", 30, "adam olivia", []seedTask{
			{"Compare moving companies", "adam", "in_progress", "medium", 3, 4, "", "x Three offers; References", "olivia: @adam, ask for the insurance of the plotter."},
			{"Sign the lease", "olivia", "in_review", "urgent", 1, 3, "The lawyer has the second draft.", "", ""},
			{"Order desks and chairs", "adam", "todo", "medium", 13, 5, "", "Count; Trial week; Order", ""},
			{"Tell clients the new address", "olivia", "todo", "low", 27, 2, "", "", ""},
		}},
		{"Hiring: senior engineer", "One more engineer for client work.", "completed", -2, "adam olivia", []seedTask{
			{"Write the advertisement", "adam", "done", "medium", -21, 3, "", "", ""},
			{"Interview the short list", "olivia", "done", "high", -8, 12, "", "", "adam: All four are strong. @olivia, Tuesday to decide?"},
			{"Send the offer", "olivia", "done", "urgent", -2, 1, "", "", ""},
		}},
	},
}}

var seedPersonal = map[string][]seedTask{
	"olivia": {
		{"Prepare the board meeting", "", "in_progress", "high", 4, 6, "", "x Numbers; Slides", ""},
		{"Renew the passport", "", "todo", "low", 40, 0, "", "", ""},
	},
	"adam": {
		{"Read the security report", "", "todo", "medium", 5, 2, "", "", ""},
		{"Plan the team lunch", "", "todo", "low", 9, 1, "", "Vegetarian; Table for eleven", ""},
	},
	"mia": {
		{"Collect portfolio pieces", "", "in_progress", "medium", 15, 6, "", "x Museum; Coffee; Planner", ""},
		{"Book the typography workshop", "", "todo", "high", 6, 1, "Early price until the end of the week.", "", ""},
		{"Return the library books", "", "done", "low", -1, 0, "", "", ""},
	},
	"noah": {
		{"Learn the profiler", "", "in_progress", "low", 25, 8, "", "x Tutorial; Our own service", ""},
		{"Back up the laptop", "", "todo", "medium", 2, 1, "", "", ""},
	},
}

// seed fills an empty workspace with work of the weeks before now. It adds rows
// in the order of their times, so that later rows have higher numbers.
func (w *Workspace) seed(now time.Time) {
	date := func(days int) day {
		if days == 0 {
			return ""
		}
		return day(now.AddDate(0, 0, days).Format(layout))
	}
	ago := func(days, hours int) time.Time {
		return now.AddDate(0, 0, -days).Add(-time.Duration(hours) * time.Hour)
	}
	fields := func(t seedTask, at time.Time) task {
		return task{t.title, t.about, t.status, t.priority, date(t.due), effort(t.hours * 3600), at, at.Add(26 * time.Hour)}
	}
	split := func(s, sep string) []string { // no element for "", unlike strings.Split
		return strings.FieldsFunc(strings.ReplaceAll(s, sep, "\x00"), func(r rune) bool { return r == 0 })
	}
	subtasks := func(taskID string, t seedTask) {
		for _, title := range split(t.subtasks, "; ") {
			title, done := strings.CutPrefix(title, "x ")
			s := w.subtasks.put(subtask{w.subtasks.next(), taskID, title, done})
			if s.ID == "subtask-3" || s.ID == "subtask-6" {
				w.checklists.put(checklist{w.checklists.next(), "", s.ID, "Before it is done",
					[]item{{"Seen on a phone", true}, {"Seen in the dark", false}, {"Read aloud", false}}})
			}
		}
		if t.priority == "urgent" || t.priority == "high" && t.status == "in_progress" {
			over := t.status == "done" || t.status == "in_review"
			w.checklists.put(checklist{w.checklists.next(), taskID, "", "Definition of done",
				[]item{{"Agreed with whoever asked", true}, {"Looked at by a colleague", over}, {"Noted in the changelog", t.status == "done"}}})
		}
	}

	type said struct {
		task         projectTask
		author, text string
	}
	var talk []said
	for i, s := range seedSpaces {
		in := w.spaces.put(space{w.spaces.next(), s.name, s.about, ago(200-20*i, 0)})
		for _, p := range s.projects {
			id := w.projects.next()
			w.projects.put(project{id, in.ID, p.name, p.about, p.status, date(p.due), strings.Fields(p.members), ago(70-4*ordinal(id.ID), 3)})
			for _, t := range p.tasks {
				id := projectTask{ident: w.tasks.next(), ProjectID: id.ID, AssigneeID: t.assignee}
				id.CreatedBy = cmp.Or(t.assignee, strings.Fields(p.members)[0])
				id.task = fields(t, ago(38-ordinal(id.ID)/2, ordinal(id.ID)%7))
				w.tasks.put(id)
				subtasks(id.ID, t)
				for _, m := range split(t.comments, "; ") {
					author, text, _ := strings.Cut(m, ": ")
					talk = append(talk, said{id, author, text})
				}
			}
		}
	}
	for i, s := range talk {
		w.say(s.task, s.author, s.text, now.Add(-time.Duration(len(talk)-i)*5*time.Hour-20*time.Minute), now)
	}
	for _, u := range Users() {
		for i, t := range seedPersonal[u.ID] {
			id := w.personal.next()
			w.personal.put(personalTask{id, u.ID, fields(t, ago(12-i, 2))})
			subtasks(id.ID, t)
		}
	}

	// Two weeks hold ten working days whichever day is today, so that the number of
	// entries does not depend on it.
	for d := 14; d >= 1; d-- {
		morning := now.AddDate(0, 0, -d).Truncate(24 * time.Hour).Add(9 * time.Hour)
		if morning.Weekday() == time.Saturday || morning.Weekday() == time.Sunday {
			continue
		}
		for i, u := range Users() {
			own := visible(&w.tasks, func(t projectTask) bool {
				return t.AssigneeID == u.ID && t.Status != "todo" && (t.Status != "done" || t.DueDate >= date(-d))
			})
			work := func(source string, n, from, minutes int) {
				t := own[(d+n)%len(own)]
				start := morning.Add(time.Duration(from) * time.Minute)
				e := timer{UserID: u.ID, TaskID: t.ID, ProjectID: t.ProjectID, Source: source}
				if source == "manual" {
					e.Date, e.Duration, e.Note = day(start.Format(layout)), minutes*60, "Calls"
				} else {
					e.StartedAt, e.EndedAt = start, start.Add(time.Duration(minutes)*time.Minute)
				}
				e.ident = w.timers.next()
				w.timers.put(e.at(now))
			}
			if u.Role == Owner {
				work("manual", 0, 0, 30+15*(d%4))
				continue
			}
			work("timer", 0, 7*i, 95+(d*7+i*13)%50)
			work("range", 1, 240, 60+15*((d+i)%6))
		}
	}
	// One timer is running: Noah's.
	for _, t := range w.tasks.rows {
		if t.AssigneeID == "noah" && t.Status == "in_progress" {
			w.timers.put(timer{ident: w.timers.next(), UserID: "noah", TaskID: t.ID, ProjectID: t.ProjectID, Source: "timer",
				StartedAt: now.Add(-42 * time.Minute), Running: true, Note: "Sold-out state"}.at(now))
			break
		}
	}
}
