package telemetry

// Damage is one thing that a store's verification found wrong.
type Damage struct {
	Store string `json:"store"` // metrics or events
	File  string `json:"file"`
	// Block is the number of the damaged block in the file; 0 when the file or
	// folder as a whole is meant.
	Block int64 `json:"block,omitempty"`
	// Rows is how many rows or samples it concerns; 0 when that is not known.
	Rows int64  `json:"rows,omitempty"`
	What string `json:"what"`
	// Repair says what was done about it; empty when nothing was.
	Repair string `json:"repair,omitempty"`
}
