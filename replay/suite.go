// Package replay sends a recorded set of sessions to a service, keeps what it
// answered in a form that can be compared, and asks the same questions again
// as somebody else to prove that tenants are apart.
//
// It owns the suite format (docs/replay.md), the run and the comparison. It
// never knows the service: paths, bodies and what to wait for are the suite's.
// It never judges a release; it reports what was observed.
package replay

import (
	"time"
)

// Bounds on what is read, so that neither a suite nor a service can exhaust
// the control plane.
const (
	maxSuiteBytes    = 1 << 20
	maxFileBytes     = 16 << 20
	maxFilesBytes    = 64 << 20
	maxResponseBytes = 8 << 20
)

// Suite is a set of recorded sessions, read by [Load].
type Suite struct {
	Name string
	// Digest identifies the suite with every document it uploads
	// ("sha256:…"). Runs of different suites cannot be compared.
	Digest   string
	Sessions []Session
	Compare  Rules

	files map[string][]byte
}

// Session is a conversation of one tenant with the service. Its steps run in
// order and share what they capture.
type Session struct {
	Name  string
	Steps []Step
}

// Step is one request and what is expected of its answer.
type Step struct {
	Name    string
	Method  string
	Path    string
	Headers map[string]string
	// When skips the step unless a captured value is as stated.
	When *Condition
	// Body is the JSON body with templates, nil for none.
	Body any
	// Multipart is the form to upload, nil for none.
	Multipart *Multipart
	// Status holds the expected status codes.
	Status []int
	// Captures are the values that later steps use.
	Captures []Capture
	// Poll repeats the request until it answers as stated, nil for once.
	Poll *Poll
	// Timeout bounds one request.
	Timeout time.Duration
	// Compare is added to the suite's rules for this step.
	Compare Rules
	// Isolation is what [Isolation] expects when a stranger asks.
	Isolation Access
}

// Access says what a stranger may see of a step.
type Access string

// The kinds of access.
const (
	// Refused: any 2xx to another tenant or to nobody is a finding. The
	// default of GET.
	Refused Access = "refuse"
	// Listing: another tenant may ask, but the answer may not hold an
	// identifier of the session; nobody may not ask.
	Listing Access = "listing"
	// Unprobed: not asked again. The default of everything but GET.
	Unprobed Access = "skip"
)

// Condition compares a captured value, written as text, with Is.
type Condition struct {
	Value string
	Is    string
}

// Multipart is a form with files.
type Multipart struct {
	Fields []Field
	Files  []File
}

// Field is one value of a form.
type Field struct{ Name, Value string }

// File is one document of a form; Path is relative to the suite's file.
type File struct{ Field, Path, Type string }

// Capture takes a value out of the answer under a name.
type Capture struct {
	Name string
	// Path is dotted: "data.items.0.id".
	Path string
	// Optional makes a missing value no failure.
	Optional bool
}

// Poll repeats a request until the value at Path is one of Until. A value in
// Fail ends it at once.
type Poll struct {
	Path     string
	Until    []string
	Fail     []string
	Interval time.Duration
	Timeout  time.Duration
}

// Rules say how answers are compared. Paths are dotted; "*" stands for one
// segment and "**" for any number of them.
type Rules struct {
	// Ignore drops values before they are kept.
	Ignore []string `json:"ignore,omitempty"`
	// Identifiers are captures that differ from run to run; their values are
	// replaced by their names, so that the relations are compared.
	Identifiers []string `json:"identifiers,omitempty"`
	// Tolerance is the largest absolute difference between two numbers that
	// counts as equal, by path.
	Tolerance map[string]float64 `json:"tolerance,omitempty"`
}
