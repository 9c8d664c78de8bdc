// Package evidence keeps the proof of every release: raw files addressed by
// their content, signed statements about them, a Merkle log over the
// statements and the audit trail, and the bundle in which a release's proof
// travels to a machine that never saw this server.
//
// It owns the formats (in-toto statements in DSSE envelopes, tlog checkpoints,
// the bundle's ZIP layout) and their verification. It never judges: whether a
// verdict follows from its inputs is recomputed through a [Reevaluate] that
// the composer takes from package gate. It never decides what a release may do.
package evidence
